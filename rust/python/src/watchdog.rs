//! A thread that ends this process at a deadline. It needs no GIL, because the thread that hangs may hold it.

use std::io::Write;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use crate::door::unfailing;

/// Adds the class of this file to the module.
pub fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_class::<Watchdog>()
}

/// The interval at which the thread reads the clock. Longer gaps count as one interval: the process was stopped.
const SLICE: Duration = Duration::from_secs(1);

/// How and when the process ends.
struct End {
    /// Time left when the clock was last read.
    left: Duration,
    read: Instant,
    /// None means SIGKILL.
    exit_code: Option<i32>,
    /// Written to stderr first.
    message: String,
    signal: Option<Signal>,
}

/// A signal to the thread that armed the watchdog, before the process ends.
struct Signal {
    left: Duration,
    number: i32,
    thread: libc::pthread_t,
}

#[derive(Default)]
struct Shared {
    /// None means disarmed.
    end: Mutex<Option<End>>,
    changed: Condvar,
}

/// Ends this process at a deadline.
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

    #[pyo3(signature = (seconds, exit_code = None, message = "", signal = None))]
    fn arm(
        &self,
        py: Python<'_>,
        seconds: f64,
        exit_code: Option<i32>,
        message: &str,
        signal: Option<(f64, i32)>,
    ) -> PyResult<()> {
        // SAFETY: the call takes no argument and returns a number.
        let thread = unsafe { libc::pthread_self() };
        let signal = signal
            .map(|(seconds, number)| {
                duration(seconds).map(|left| Signal {
                    left,
                    number,
                    thread,
                })
            })
            .transpose()?;
        let end = End {
            left: duration(seconds)?,
            read: Instant::now(),
            exit_code,
            message: message.to_owned(),
            signal,
        };
        unfailing(py, || self.set(Some(end)))
    }

    fn keep_signal(&self, py: Python<'_>) -> PyResult<()> {
        unfailing(py, || {
            if let Some(end) = &mut *self.0.end.lock().unwrap_or_else(PoisonError::into_inner) {
                end.signal = None;
            }
        })
    }

    fn disarm(&self, py: Python<'_>) -> PyResult<()> {
        unfailing(py, || self.set(None))
    }
}

fn duration(seconds: f64) -> PyResult<Duration> {
    Duration::try_from_secs_f64(seconds)
        .map_err(|error| PyValueError::new_err(format!("seconds: {error}, got {seconds:?}")))
}

impl Watchdog {
    fn set(&self, end: Option<End>) {
        *self.0.end.lock().unwrap_or_else(PoisonError::into_inner) = end;
        self.0.changed.notify_all();
    }
}

#[expect(clippy::disallowed_methods, reason = "it is a clock")]
impl Shared {
    /// Waits for the deadline or a change, at most for `SLICE`, so that the thread ends soon after the watchdog is dropped.
    fn watch(&self) {
        let mut end = self.end.lock().unwrap_or_else(PoisonError::into_inner);
        let mut wait = SLICE;
        if let Some(end) = &mut *end {
            let now = Instant::now();
            let passed = now.saturating_duration_since(end.read).min(SLICE);
            (end.left, end.read) = (end.left.saturating_sub(passed), now);
            wait = wait.min(end.left);
            if let Some(signal) = &mut end.signal {
                signal.left = signal.left.saturating_sub(passed);
                if signal.left.is_zero() {
                    // SAFETY: the thread that armed the watchdog still runs: it is in the step that takes too long.
                    unsafe { libc::pthread_kill(signal.thread, signal.number) };
                    end.signal = None;
                } else {
                    wait = wait.min(signal.left);
                }
            }
            if wait.is_zero() {
                end.now();
            }
        }
        drop(self.changed.wait_timeout(end, wait));
    }
}

impl End {
    /// Ends the process now.
    fn now(&self) {
        let mut stderr = std::io::stderr();
        drop(stderr.write_all(self.message.as_bytes()));
        // SAFETY: these calls take and return plain numbers, and none of this process's memory is used after.
        unsafe {
            match self.exit_code {
                Some(code) => libc::_exit(code),
                None => libc::kill(libc::getpid(), libc::SIGKILL),
            }
        };
    }
}
