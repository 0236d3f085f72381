//! The threads of the kernels: a separate rayon pool, so that its size and its floating-point mode are known.

use std::sync::{Arc, Mutex, PoisonError};

use rayon::prelude::*;
use rayon::{ThreadPool, ThreadPoolBuilder};

use super::KernelError;

/// The largest number of threads.
pub const MAX_THREADS: usize = 1024;

static STATE: Mutex<State> = Mutex::new(State {
    requested: 0,
    pool: None,
});

struct State {
    requested: usize,
    pool: Option<(u32, Arc<ThreadPool>)>,
}

/// Sets the number of threads of the kernels; 0 means one per core. Never changes the bits.
///
/// # Errors
/// [`KernelError::ThreadCount`] above [`MAX_THREADS`].
pub fn set_kernel_threads(count: usize) -> Result<(), KernelError> {
    if count > MAX_THREADS {
        return Err(KernelError::ThreadCount(count));
    }
    let mut state = STATE.lock().unwrap_or_else(PoisonError::into_inner);
    if state.requested != count {
        state.requested = count;
        forget_if_forked(state.pool.take());
    }
    Ok(())
}

/// The number of threads that the kernels use.
pub fn kernel_threads() -> usize {
    resolve(
        STATE
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .requested,
    )
}

/// Does every job on the threads and returns the results in the order of the jobs. A single job runs on the calling thread.
/// The floating-point mode of the caller, which may flush denormals, has no effect.
///
/// # Errors
/// [`KernelError::Threads`] if the system refuses the threads.
pub(super) fn map<J: Send, R: Send>(
    mut jobs: Vec<J>,
    work: impl Fn(J) -> R + Send + Sync,
) -> Result<Vec<R>, KernelError> {
    if jobs.len() <= 1 {
        let _mode = DefaultFloatMode::enter();
        return Ok(jobs.pop().map(work).into_iter().collect());
    }
    Ok(current()?.install(|| jobs.into_par_iter().map(work).collect()))
}

fn current() -> Result<Arc<ThreadPool>, KernelError> {
    let mut state = STATE.lock().unwrap_or_else(PoisonError::into_inner);
    let process = std::process::id();
    if let Some((owner, pool)) = &state.pool
        && *owner == process
    {
        return Ok(Arc::clone(pool));
    }
    let pool = ThreadPoolBuilder::new()
        .num_threads(resolve(state.requested))
        .thread_name(|index| format!("es-kernel-{index}"))
        // A new thread inherits the mode of its parent, which may flush denormals to zero (torch can set that).
        .start_handler(|_| set_float_mode(DEFAULT_FLOAT_MODE))
        .build()
        .map_err(|error| KernelError::Threads(error.to_string()))?;
    let pool = Arc::new(pool);
    forget_if_forked(state.pool.replace((process, Arc::clone(&pool))));
    Ok(pool)
}

/// Drops a pool. The pool of a parent process is forgotten instead: after a fork its threads don't exist here.
fn forget_if_forked(pool: Option<(u32, Arc<ThreadPool>)>) {
    if let Some((owner, pool)) = pool
        && owner != std::process::id()
    {
        std::mem::forget(pool);
    }
}

fn resolve(requested: usize) -> usize {
    match requested {
        0 => std::thread::available_parallelism()
            .map_or(1, std::num::NonZero::get)
            .min(MAX_THREADS),
        count => count,
    }
}

/// Sets the default floating-point mode; restores the mode from before when it is dropped.
struct DefaultFloatMode {
    before: FloatMode,
}

impl DefaultFloatMode {
    fn enter() -> Self {
        let before = float_mode();
        set_float_mode(DEFAULT_FLOAT_MODE);
        Self { before }
    }
}

impl Drop for DefaultFloatMode {
    fn drop(&mut self) {
        set_float_mode(self.before);
    }
}

/// The control word MXCSR. The default rounds to nearest even, keeps denormals and masks exceptions.
#[cfg(target_arch = "x86_64")]
type FloatMode = u32;
#[cfg(target_arch = "x86_64")]
const DEFAULT_FLOAT_MODE: FloatMode = 0x1f80;

/// The control word FPCR.
#[cfg(not(target_arch = "x86_64"))]
type FloatMode = u64;
#[cfg(not(target_arch = "x86_64"))]
const DEFAULT_FLOAT_MODE: FloatMode = 0;

#[cfg(target_arch = "x86_64")]
fn float_mode() -> FloatMode {
    let mut mode = 0;
    // SAFETY: stores the MXCSR into a live variable; touches no other state.
    unsafe { std::arch::asm!("stmxcsr [{}]", in(reg) &raw mut mode, options(nostack)) };
    mode
}

#[cfg(target_arch = "x86_64")]
fn set_float_mode(mode: FloatMode) {
    // SAFETY: loads a valid MXCSR from a live variable: the default, or one that was read before.
    unsafe { std::arch::asm!("ldmxcsr [{}]", in(reg) &raw const mode, options(nostack)) };
}

#[cfg(target_arch = "aarch64")]
fn float_mode() -> FloatMode {
    let mode;
    // SAFETY: reads the FPCR; touches no other state.
    unsafe { std::arch::asm!("mrs {}, fpcr", out(reg) mode, options(nostack)) };
    mode
}

#[cfg(target_arch = "aarch64")]
fn set_float_mode(mode: FloatMode) {
    // SAFETY: writes a valid FPCR: the default, or one that was read before.
    unsafe { std::arch::asm!("msr fpcr, {}", in(reg) mode, options(nostack)) };
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn float_mode() -> FloatMode {
    DEFAULT_FLOAT_MODE
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn set_float_mode(_: FloatMode) {}
