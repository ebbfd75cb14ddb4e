//! The kinds every failure is sorted into, so that one table can map them to HTTP and exit codes.

/// What sort of failure something is, independent of where it happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// The caller's input is malformed or contradicts itself.
    InvalidArgument,
    /// The named thing does not exist.
    NotFound,
    /// The name or thing is taken, or in use by something else.
    Conflict,
    /// The thing exists but its state does not allow the operation.
    InvalidState,
    /// Asked for something that this build, host or kernel does not offer.
    Unsupported,
    /// Not allowed: credentials, file modes or kernel privileges.
    Permission,
    /// It took longer than its deadline.
    Timeout,
    /// The caller went away or asked to stop.
    Cancelled,
    /// A thing this depends on (registry, network, daemon) can't be reached now.
    Unavailable,
    /// Anything else, bugs included.
    Internal,
}
