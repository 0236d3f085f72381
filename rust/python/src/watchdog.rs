//! A thread that ends this process unless it is put off: one that needs no GIL, since whoever hangs may hold it.

use std::io::Write;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

/// Adds this file's class to the module.
pub fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_class::<Watchdog>()
}

/// It looks at the clock this often. What passes beyond that doesn't count: the process stood still.
const SLICE: Duration = Duration::from_secs(1);

/// How the process ends.
struct End {
    /// In how long, as of a moment.
    left: Duration,
    of: Instant,
    /// None: by SIGKILL.
    exit_code: Option<i32>,
    /// What it says before.
    message: String,
    /// Before that a signal goes to the thread that armed it: in how long, which, and to whom.
    signal: Option<(Duration, i32, libc::pthread_t)>,
}

#[derive(Default)]
struct Shared {
    /// What happens if nothing else is said before.
    end: Mutex<Option<End>>,
    news: Condvar,
}

/// Ends this process at a given moment.
#[pyclass(frozen, module = "es_llm._core")]
pub struct Watchdog(Arc<Shared>);

#[pymethods]
#[expect(clippy::disallowed_methods, reason = "it is a clock")]
impl Watchdog {
    #[new]
    fn new() -> PyResult<Self> {
        let shared = Arc::new(Shared::default());
        let weak = Arc::downgrade(&shared);
        thread::Builder::new()
            .name("es_llm watchdog".into())
            .spawn(move || {
                while let Some(shared) = weak.upgrade() {
                    shared.watch();
                }
            })?;
        Ok(Self(shared))
    }

    /// The process ends after so many seconds, unless `arm` or `disarm` is called before. Time during which it is stopped
    /// (SIGSTOP, a suspended job) doesn't count. With `signal` = (seconds, number) this thread gets that signal before.
    #[pyo3(signature = (seconds, exit_code = None, message = "", signal = None))]
    fn arm(
        &self,
        seconds: f64,
        exit_code: Option<i32>,
        message: &str,
        signal: Option<(f64, i32)>,
    ) -> PyResult<()> {
        // SAFETY: it takes nothing, and gives a number.
        let me = unsafe { libc::pthread_self() };
        let signal = signal
            .map(|(seconds, number)| duration(seconds).map(|left| (left, number, me)))
            .transpose()?;
        self.set(Some(End {
            left: duration(seconds)?,
            of: Instant::now(),
            exit_code,
            message: message.to_owned(),
            signal,
        }));
        Ok(())
    }

    /// The signal needn't be sent any more.
    fn keep_signal(&self) {
        let mut end = self.0.end.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(end) = &mut *end {
            end.signal = None;
        }
    }

    fn disarm(&self) {
        self.set(None);
    }
}

fn duration(seconds: f64) -> PyResult<Duration> {
    Duration::try_from_secs_f64(seconds)
        .map_err(|error| PyValueError::new_err(format!("seconds: {error}, got {seconds}")))
}

impl Watchdog {
    fn set(&self, end: Option<End>) {
        *self.0.end.lock().unwrap_or_else(PoisonError::into_inner) = end;
        self.0.news.notify_all();
    }
}

#[expect(clippy::disallowed_methods, reason = "it is a clock")]
impl Shared {
    /// Waits for the end or for news, a second at most: the owner may be gone by then.
    fn watch(&self) {
        let mut end = self.end.lock().unwrap_or_else(PoisonError::into_inner);
        let mut wait = SLICE;
        if let Some(end) = &mut *end {
            let now = Instant::now();
            let passed = now.saturating_duration_since(end.of).min(SLICE);
            (end.left, end.of) = (end.left.saturating_sub(passed), now);
            wait = wait.min(end.left);
            if let Some((left, number, thread)) = end.signal {
                let left = left.saturating_sub(passed);
                end.signal = (!left.is_zero()).then_some((left, number, thread));
                if left.is_zero() {
                    // SAFETY: the thread that armed this lives: it is in the step that takes too long.
                    unsafe { libc::pthread_kill(thread, number) };
                } else {
                    wait = wait.min(left);
                }
            }
            if wait.is_zero() {
                let mut stderr = std::io::stderr();
                drop(stderr.write_all(end.message.as_bytes()));
                // SAFETY: these calls take and return plain numbers, and none of this process's memory is used after.
                unsafe {
                    match end.exit_code {
                        Some(code) => libc::_exit(code),
                        None => libc::kill(libc::getpid(), libc::SIGKILL),
                    }
                };
            }
        }
        drop(self.news.wait_timeout(end, wait));
    }
}
