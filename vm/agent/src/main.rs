//! `cove-agent`: the first process of a machine's guest.

fn main() {}
