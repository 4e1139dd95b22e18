//! Raw system calls and their results.

/// The value that the kernel returned, or the error number.
pub(crate) type Outcome = Result<libc::c_long, i32>;

/// Makes a system call by its name, without a library function.
macro_rules! call {
    ($number:ident $(, $argument:expr)* $(,)?) => {
        $crate::call::raw(libc::$number, [$($argument as libc::c_long),*])
    };
}

/// Makes a system call by its number.
pub(crate) fn raw<const N: usize>(number: libc::c_long, arguments: [libc::c_long; N]) -> Outcome {
    let mut all = [0; 6];
    all[..N].copy_from_slice(&arguments);
    let [a, b, c, d, e, f] = all;
    // SAFETY: the kernel checks every address that it receives. A call that could harm this process is either denied,
    // which the trials check, or made in a child that exits immediately after it.
    match unsafe { libc::syscall(number, a, b, c, d, e, f) } {
        -1 => Err(std::io::Error::last_os_error().raw_os_error().unwrap_or(0)),
        returned => Ok(returned),
    }
}
