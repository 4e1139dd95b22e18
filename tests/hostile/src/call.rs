//! Raw system calls and what came of them.

/// What the kernel returned, or why it did not.
pub(crate) type Outcome = Result<libc::c_long, i32>;

/// Makes a system call past all libraries.
macro_rules! call {
    ($number:ident $(, $argument:expr)* $(,)?) => {
        $crate::call::raw(libc::$number, [$($argument as libc::c_long),*])
    };
}

/// A system call by its number.
pub(crate) fn raw<const N: usize>(number: libc::c_long, arguments: [libc::c_long; N]) -> Outcome {
    let mut all = [0; 6];
    all[..N].copy_from_slice(&arguments);
    let [a, b, c, d, e, f] = all;
    // SAFETY: the kernel checks every address that it is given. What a call could do to this very process is either
    // refused, which is what is tried, or done in a child that ends right after.
    match unsafe { libc::syscall(number, a, b, c, d, e, f) } {
        -1 => Err(std::io::Error::last_os_error().raw_os_error().unwrap_or(0)),
        returned => Ok(returned),
    }
}
