//! The versioned contract between a machine's host and its guest.
