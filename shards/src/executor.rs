//! Starts an executor on a CPU, or says what this machine lacks for it.

use crate::uring;
use glommio::{ExecutorJoinHandle, LocalExecutorBuilder, Placement};

#[derive(Debug, Clone)]
pub struct Options {
    pub name: String,
    pub cpu: usize,
    /// Memory registered with the ring for direct I/O, bytes.
    pub io_memory_bytes: usize,
}

#[derive(Debug, thiserror::Error)]
pub enum ExecutorError {
    #[error(
        "io_uring cannot be used: {0}; it needs kernel 5.8 or later, kernel.io_uring_disabled=0, a \
         seccomp profile that allows io_uring_setup, io_uring_enter and io_uring_register, and \
         LimitMEMLOCK of at least 512 KiB for each shard"
    )]
    Start(String),
}

/// Runs `main` to its end on an executor of its own, pinned to `options.cpu`.
pub fn spawn<F, T>(
    options: &Options,
    main: impl FnOnce() -> F + Send + 'static,
) -> Result<ExecutorJoinHandle<T>, ExecutorError>
where
    F: Future<Output = T> + 'static,
    T: Send + 'static,
{
    LocalExecutorBuilder::new(Placement::Fixed(options.cpu))
        .name(&options.name)
        .io_memory(options.io_memory_bytes)
        .spawn(main)
        .map_err(|error| ExecutorError::Start(error.to_string()))
}

/// Tries a ring once, so that its lack is one clear error and not one for each shard.
pub fn check_io_uring() -> Result<(), ExecutorError> {
    uring::try_ring().map_err(|error| ExecutorError::Start(error.to_string()))?;
    std::thread::spawn(|| {
        LocalExecutorBuilder::new(Placement::Unbound)
            .io_memory(64 << 10)
            .make()
            .map(drop)
            .map_err(|error| error.to_string())
    })
    .join()
    .expect("the attempt does not panic")
    .map_err(ExecutorError::Start)?;
    tracing::debug!(quiet = uring::is_quiet(), "io_uring");
    Ok(())
}
