//! Rings that do not interrupt: what executors ask of the kernel when they set theirs up.
//!
//! By default the kernel interrupts the CPU of a thread whenever something happened to one of its rings.
//! An executor that is busy looks at its rings anyway, so that every request over HTTP costs it an
//! interrupt for nothing: a quarter of all the CPU that requests take. `IORING_SETUP_COOP_TASKRUN`
//! (Linux 5.19) does without. glommio has no option for it, but the C library in it makes its system
//! calls by four small functions, and these here stand in their place.

use libc::{SYS_io_uring_enter, SYS_io_uring_register, SYS_io_uring_setup, c_int, c_uint, c_void};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};

const SETUP_COOP_TASKRUN: u32 = 1 << 8;
/// Of `struct io_uring_params`: 30 words, of which the third holds the flags.
const PARAMS_WORDS: usize = 30;
const PARAMS_FLAGS: usize = 2;
/// Of the kernel's own set of signals.
const SIGNALS_BYTES: c_int = 8;

static QUIET: AtomicBool = AtomicBool::new(false);

/// Sets up a ring and asks what it can do, as glommio is about to: that panics where it may not.
pub fn try_ring() -> std::io::Result<()> {
    const IORING_REGISTER_PROBE: c_uint = 8;
    const PROBE_OPERATIONS: u8 = 255;
    /// `struct io_uring_probe` with room for as many operations: 16 bytes, and 8 for each.
    const PROBE_BYTES: usize = 16 + 8 * PROBE_OPERATIONS as usize;
    let mut params = [0_u32; PARAMS_WORDS];
    let mut probe = [0_u64; PROBE_BYTES / 8];
    // SAFETY: the kernel fills both, which are as large as it is told and live for the calls; the
    // descriptor is ours alone.
    unsafe {
        let ring = answer(libc::syscall(SYS_io_uring_setup, 1, &raw mut params));
        if ring < 0 {
            return Err(std::io::Error::last_os_error());
        }
        let ring = OwnedFd::from_raw_fd(ring);
        let (at, operations) = (&raw mut probe, c_uint::from(PROBE_OPERATIONS));
        let asked = libc::syscall(
            SYS_io_uring_register,
            ring.as_raw_fd(),
            IORING_REGISTER_PROBE,
            at,
            operations,
        );
        if asked < 0 { Err(std::io::Error::last_os_error()) } else { Ok(()) }
    }
}

/// Whether rings were set up so.
#[must_use]
pub fn is_quiet() -> bool {
    QUIET.load(Ordering::Relaxed)
}

/// What the kernel answered: a number, and -1 where `errno` says why.
#[expect(
    clippy::cast_possible_truncation,
    reason = "a descriptor, or a count of what a ring holds"
)]
fn answer(of: libc::c_long) -> c_int {
    of as c_int
}

/// # Safety
///
/// `params` is a `struct io_uring_params` of its own.
#[unsafe(no_mangle)]
unsafe extern "C" fn __sys_io_uring_setup(
    entries: c_uint,
    params: *mut [u32; PARAMS_WORDS],
) -> c_int {
    // SAFETY: as the caller promises, and the kernel is given what it was to be given but for a flag.
    unsafe {
        let asked = *params;
        (*params)[PARAMS_FLAGS] |= SETUP_COOP_TASKRUN;
        let ring = answer(libc::syscall(SYS_io_uring_setup, entries, params));
        if ring >= 0 {
            QUIET.store(true, Ordering::Relaxed);
            return ring;
        }
        if *libc::__errno_location() != libc::EINVAL {
            return ring;
        }
        // An older kernel, which does not know the flag.
        *params = asked;
        answer(libc::syscall(SYS_io_uring_setup, entries, params))
    }
}

/// # Safety
///
/// As io_uring_register(2) has it.
#[unsafe(no_mangle)]
unsafe extern "C" fn __sys_io_uring_register(
    ring: c_int,
    opcode: c_uint,
    argument: *const c_void,
    count: c_uint,
) -> c_int {
    // SAFETY: the caller's.
    answer(unsafe { libc::syscall(SYS_io_uring_register, ring, opcode, argument, count) })
}

/// # Safety
///
/// As io_uring_enter2(2) has it.
#[unsafe(no_mangle)]
unsafe extern "C" fn __sys_io_uring_enter2(
    ring: c_int,
    submit: c_uint,
    complete: c_uint,
    flags: c_uint,
    argument: *const c_void,
    bytes: c_int,
) -> c_int {
    // SAFETY: the caller's.
    answer(unsafe {
        libc::syscall(SYS_io_uring_enter, ring, submit, complete, flags, argument, bytes)
    })
}

/// # Safety
///
/// As io_uring_enter(2) has it.
#[unsafe(no_mangle)]
unsafe extern "C" fn __sys_io_uring_enter(
    ring: c_int,
    submit: c_uint,
    complete: c_uint,
    flags: c_uint,
    signals: *const c_void,
) -> c_int {
    // SAFETY: the caller's.
    unsafe { __sys_io_uring_enter2(ring, submit, complete, flags, signals, SIGNALS_BYTES) }
}

#[cfg(test)]
mod tests {
    #[test]
    fn executors_get_rings_that_do_not_interrupt() {
        crate::executor::check_io_uring().unwrap();
        let release = rustix::system::uname();
        let release = release.release().to_string_lossy();
        let mut numbers = release.split(['.', '-']).map(|part| part.parse::<u32>().unwrap_or(0));
        let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
        assert_eq!(super::is_quiet(), version >= (5, 19), "Linux {release}");
    }
}
