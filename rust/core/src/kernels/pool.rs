//! The threads of the kernels: a rayon pool of their own, so that its size and its floating-point mode are known.

use std::sync::{Arc, Mutex, PoisonError};

use rayon::{ThreadPool, ThreadPoolBuilder};

use super::KernelError;

/// Most threads that can be asked for.
pub const MAX_THREADS: usize = 1024;

static STATE: Mutex<State> = Mutex::new(State {
    requested: 0,
    pool: None,
});

struct State {
    requested: usize,
    pool: Option<(u32, Arc<ThreadPool>)>,
}

/// Threads that the kernels use from now on; 0 for one per core. Never changes the bits.
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

/// Threads that the kernels use.
pub fn kernel_threads() -> usize {
    resolve(
        STATE
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .requested,
    )
}

/// Runs `work` on the pool, one thread or many: the caller's floating-point mode (it may flush denormals) never counts.
///
/// # Errors
/// [`KernelError::Threads`] if the system refuses the threads.
pub(super) fn run<R: Send>(work: impl FnOnce() -> R + Send) -> Result<R, KernelError> {
    Ok(current()?.install(work))
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
        .start_handler(|_| default_float_mode())
        .build()
        .map_err(|error| KernelError::Threads(error.to_string()))?;
    let pool = Arc::new(pool);
    forget_if_forked(state.pool.replace((process, Arc::clone(&pool))));
    Ok(pool)
}

/// Drops a pool, unless a fork left its threads behind in the parent process: then there is nobody to tell.
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

/// A new thread inherits its parent's control word, in which denormals may be flushed to zero (torch can do that):
/// sets the default one, that is round to nearest even, denormals kept, exceptions masked.
fn default_float_mode() {
    #[cfg(target_arch = "x86_64")]
    {
        let default = 0x1f80_u32;
        // SAFETY: loads the MXCSR that Rust code assumes, from a live variable; touches no other state.
        unsafe {
            std::arch::asm!("ldmxcsr [{}]", in(reg) &raw const default, options(nostack, readonly));
        }
    }
    #[cfg(target_arch = "aarch64")]
    {
        // SAFETY: writes the FPCR that Rust code assumes; touches no other state.
        unsafe {
            std::arch::asm!("msr fpcr, {}", in(reg) 0_u64, options(nostack, nomem));
        }
    }
}
