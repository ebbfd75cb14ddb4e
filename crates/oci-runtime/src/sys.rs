//! The system calls that neither std nor rustix offers safely, each behind a safe function.
//!
//! `cove-runtime` has one thread, always. After [`clone3`] the child therefore owns a consistent
//! heap and may allocate, which a child of a threaded program may not.
#![expect(unsafe_code, reason = "raw system calls; every block proves its own conditions")]

use std::ffi::CStr;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;

/// Which side of a [`clone3`] this is.
#[derive(Debug)]
pub enum Fork {
    /// The new process.
    Child,
    /// The caller, with the new process's id in its own pid namespace.
    Parent(i32),
}

fn check(ret: libc::c_long) -> io::Result<libc::c_long> {
    if ret < 0 { Err(io::Error::last_os_error()) } else { Ok(ret) }
}

#[repr(C)]
#[derive(Default)]
struct CloneArgs {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

/// Clones this process into new namespaces (`CLONE_NEW*`), like fork(2): memory is copied.
///
/// With `CLONE_PARENT` the child belongs to the caller's parent. With `cgroup` it is born there
/// (cgroup v2, kernel 5.7).
///
/// # Errors
/// Whatever clone3(2) refuses; `ENOSYS` before kernel 5.3.
pub fn clone3(flags: libc::c_int, cgroup: Option<BorrowedFd<'_>>) -> io::Result<Fork> {
    const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;
    // CLONE_NEWTIME shares a bit with the exit signal of the old call and is fine here; the cast
    // through u32 keeps CLONE_IO (the sign bit) from spreading.
    let mut args = CloneArgs { flags: u64::from(flags.cast_unsigned()), ..CloneArgs::default() };
    if flags & libc::CLONE_PARENT == 0 {
        args.exit_signal = libc::SIGCHLD as u64;
    }
    if let Some(fd) = cgroup {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = u64::from(fd.as_raw_fd().cast_unsigned());
    }
    // SAFETY: `args` is a valid clone_args of the size passed and asks for no shared memory, no new
    // stack and no tid pointers, so the child runs on a private copy of this single-threaded process.
    let ret = unsafe { libc::syscall(libc::SYS_clone3, &raw const args, size_of::<CloneArgs>()) };
    match check(ret)? {
        0 => Ok(Fork::Child),
        pid => Ok(Fork::Parent(i32::try_from(pid).unwrap_or(i32::MAX))),
    }
}

/// Enters the namespace behind `fd`; `kind` is its `CLONE_NEW*` flag or 0 for any.
///
/// # Errors
/// setns(2)'s.
pub fn setns(fd: BorrowedFd<'_>, kind: libc::c_int) -> io::Result<()> {
    // SAFETY: setns takes two integers; the descriptor is open for the call.
    check(unsafe { libc::setns(fd.as_raw_fd(), kind) }.into()).map(drop)
}

/// Moves this process into new namespaces.
///
/// # Errors
/// unshare(2)'s.
pub fn unshare(flags: libc::c_int) -> io::Result<()> {
    // SAFETY: unshare takes an integer; callers pass CLONE_NEW* flags, which share no memory.
    check(unsafe { libc::unshare(flags) }.into()).map(drop)
}

/// mount(2). `None` for data is a null pointer, which costs the kernel no page copy.
///
/// # Errors
/// mount(2)'s.
pub fn mount(
    source: Option<&CStr>,
    target: &CStr,
    kind: Option<&CStr>,
    flags: libc::c_ulong,
    data: Option<&CStr>,
) -> io::Result<()> {
    let pointer = |s: Option<&CStr>| s.map_or(ptr::null(), CStr::as_ptr);
    // SAFETY: every pointer is null or a C string that outlives the call; the kernel copies them.
    let ret =
        unsafe { libc::mount(pointer(source), target.as_ptr(), pointer(kind), flags, pointer(data).cast()) };
    check(ret.into()).map(drop)
}

/// umount2(2).
///
/// # Errors
/// umount2(2)'s.
pub fn umount(target: &CStr, flags: libc::c_int) -> io::Result<()> {
    // SAFETY: the pointer is a C string that outlives the call.
    check(unsafe { libc::umount2(target.as_ptr(), flags) }.into()).map(drop)
}

/// pivot_root(2).
///
/// # Errors
/// pivot_root(2)'s.
pub fn pivot_root(new_root: &CStr, put_old: &CStr) -> io::Result<()> {
    // SAFETY: both pointers are C strings that outlive the call.
    check(unsafe { libc::syscall(libc::SYS_pivot_root, new_root.as_ptr(), put_old.as_ptr()) }).map(drop)
}

/// What [`mount_setattr`] sets and clears: `struct mount_attr` of mount_setattr(2).
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub struct MountAttr {
    /// `MOUNT_ATTR_*` to set.
    pub set: u64,
    /// `MOUNT_ATTR_*` to clear.
    pub clear: u64,
    /// `MS_SHARED` and the like, or 0.
    pub propagation: u64,
    /// A user namespace, for `MOUNT_ATTR_IDMAP`.
    pub userns_fd: u64,
}

/// Changes the attributes of the mount behind `fd`, and with `is_recursive` of all below it.
///
/// # Errors
/// mount_setattr(2)'s; `ENOSYS` before kernel 5.12.
pub fn mount_setattr(fd: BorrowedFd<'_>, is_recursive: bool, attr: &MountAttr) -> io::Result<()> {
    const AT_RECURSIVE: libc::c_int = 0x8000;
    let flags = libc::AT_EMPTY_PATH | if is_recursive { AT_RECURSIVE } else { 0 };
    // SAFETY: the path is an empty C string, `attr` is a mount_attr of the size passed, both outlive the call.
    let ret = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            fd.as_raw_fd(),
            c"".as_ptr(),
            flags,
            ptr::from_ref(attr),
            size_of::<MountAttr>(),
        )
    };
    check(ret).map(drop)
}

/// prctl(2) with integer arguments.
///
/// # Errors
/// prctl(2)'s.
pub fn prctl(option: libc::c_int, a: libc::c_ulong, b: libc::c_ulong) -> io::Result<i32> {
    // SAFETY: callers use only options whose arguments are integers, so no memory is touched.
    let ret = unsafe { libc::prctl(option, a, b, 0, 0) };
    check(ret.into()).map(|_| ret)
}

/// Sets all three capability sets of this thread, as bit masks.
///
/// # Errors
/// capset(2)'s.
pub fn capset(effective: u64, permitted: u64, inheritable: u64) -> io::Result<()> {
    const VERSION_3: u32 = 0x2008_0522;
    #[repr(C)]
    struct Header {
        version: u32,
        pid: i32,
    }
    let header = Header { version: VERSION_3, pid: 0 };
    let half = |mask: u64, shift: u32| u32::try_from((mask >> shift) & 0xffff_ffff).unwrap_or(0);
    let data = [
        [half(effective, 0), half(permitted, 0), half(inheritable, 0)],
        [half(effective, 32), half(permitted, 32), half(inheritable, 32)],
    ];
    // SAFETY: version 3 reads one header and two data structs of three u32 each, which these are.
    check(unsafe { libc::syscall(libc::SYS_capset, &raw const header, data.as_ptr()) }).map(drop)
}

/// Real, effective and saved user id of this thread.
///
/// # Errors
/// setresuid(2)'s.
pub fn setuid(uid: u32) -> io::Result<()> {
    // SAFETY: three integers; the raw call changes this thread, the only one.
    check(unsafe { libc::syscall(libc::SYS_setresuid, uid, uid, uid) }).map(drop)
}

/// Real, effective and saved group id of this thread.
///
/// # Errors
/// setresgid(2)'s.
pub fn setgid(gid: u32) -> io::Result<()> {
    // SAFETY: three integers; the raw call changes this thread, the only one.
    check(unsafe { libc::syscall(libc::SYS_setresgid, gid, gid, gid) }).map(drop)
}

/// The supplementary groups of this thread.
///
/// # Errors
/// setgroups(2)'s.
pub fn setgroups(groups: &[u32]) -> io::Result<()> {
    // SAFETY: the pointer and length are those of one live slice of gid_t.
    check(unsafe { libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()) }).map(drop)
}

/// personality(2).
///
/// # Errors
/// personality(2)'s.
pub fn personality(persona: libc::c_ulong) -> io::Result<()> {
    // SAFETY: one integer.
    check(unsafe { libc::personality(persona) }.into()).map(drop)
}

/// `struct sched_attr` of sched_setattr(2).
#[repr(C)]
#[derive(Debug, Default)]
pub struct SchedAttr {
    /// Bytes of this struct.
    pub size: u32,
    /// `SCHED_*`.
    pub policy: u32,
    /// `SCHED_FLAG_*`.
    pub flags: u64,
    /// For the fair policies.
    pub nice: i32,
    /// For the real-time policies.
    pub priority: u32,
    /// Nanoseconds, for `SCHED_DEADLINE`.
    pub runtime: u64,
    /// Nanoseconds, for `SCHED_DEADLINE`.
    pub deadline: u64,
    /// Nanoseconds, for `SCHED_DEADLINE`.
    pub period: u64,
}

/// sched_setattr(2) on this thread.
///
/// # Errors
/// sched_setattr(2)'s.
pub fn sched_setattr(attr: &SchedAttr) -> io::Result<()> {
    // SAFETY: `attr` is a sched_attr whose `size` field the kernel checks; it outlives the call.
    check(unsafe { libc::syscall(libc::SYS_sched_setattr, 0, ptr::from_ref(attr), 0) }).map(drop)
}

/// Pins this thread to the processors of `set`.
///
/// # Errors
/// sched_setaffinity(2)'s.
pub fn sched_setaffinity(cpus: &[usize]) -> io::Result<()> {
    let mut mask = [0_u64; 16];
    for cpu in cpus {
        let word = mask.get_mut(cpu / 64).ok_or(io::ErrorKind::InvalidInput)?;
        *word |= 1 << (cpu % 64);
    }
    // SAFETY: the pointer and the size are those of one live array.
    check(unsafe { libc::syscall(libc::SYS_sched_setaffinity, 0, size_of_val(&mask), mask.as_ptr()) })
        .map(drop)
}

/// ioprio_set(2) on this process.
///
/// # Errors
/// ioprio_set(2)'s.
pub fn ioprio_set(class: i32, priority: i32) -> io::Result<()> {
    const IOPRIO_WHO_PROCESS: libc::c_int = 1;
    // SAFETY: three integers.
    check(unsafe { libc::syscall(libc::SYS_ioprio_set, IOPRIO_WHO_PROCESS, 0, (class << 13) | priority) })
        .map(drop)
}

/// Installs a seccomp program on this thread. Returns the listener with `SECCOMP_FILTER_FLAG_NEW_LISTENER`.
///
/// # Errors
/// seccomp(2)'s.
pub fn seccomp(flags: libc::c_ulong, program: &[u64]) -> io::Result<Option<OwnedFd>> {
    #[repr(C)]
    struct Program {
        len: u16,
        filter: *const u64,
    }
    let len = u16::try_from(program.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    let header = Program { len, filter: program.as_ptr() };
    // SAFETY: sock_filter is eight bytes, as u64 is; pointer and length describe one live slice.
    let ret =
        unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const header) };
    let fd = RawFd::try_from(check(ret)?).unwrap_or(-1);
    if flags & libc::SECCOMP_FILTER_FLAG_NEW_LISTENER == 0 {
        return Ok(None);
    }
    // SAFETY: with that flag the call returns a new descriptor that nothing else owns.
    Ok(Some(unsafe { OwnedFd::from_raw_fd(fd) }))
}

/// bpf(2): loads a device program of cgroup v2 and returns it.
///
/// # Errors
/// bpf(2)'s.
pub fn bpf_load_device_program(instructions: &[u64]) -> io::Result<OwnedFd> {
    const BPF_PROG_LOAD: libc::c_int = 5;
    const BPF_PROG_TYPE_CGROUP_DEVICE: u32 = 15;
    #[repr(C)]
    #[derive(Default)]
    struct Attr {
        kind: u32,
        count: u32,
        instructions: u64,
        license: u64,
        rest: [u64; 12],
    }
    let attr = Attr {
        kind: BPF_PROG_TYPE_CGROUP_DEVICE,
        count: u32::try_from(instructions.len()).map_err(|_| io::ErrorKind::InvalidInput)?,
        instructions: instructions.as_ptr() as u64,
        license: c"Apache-2.0".as_ptr() as u64,
        rest: [0; 12],
    };
    // SAFETY: `attr` is a zero-extended bpf_attr for PROG_LOAD; its pointers outlive the call.
    let ret = unsafe { libc::syscall(libc::SYS_bpf, BPF_PROG_LOAD, &raw const attr, size_of::<Attr>()) };
    let fd = RawFd::try_from(check(ret)?).unwrap_or(-1);
    // SAFETY: the call returned a new descriptor that nothing else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// bpf(2): attaches a device program to the cgroup, beside any that are there.
///
/// # Errors
/// bpf(2)'s.
pub fn bpf_attach_device_program(cgroup: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    const BPF_PROG_ATTACH: libc::c_int = 8;
    const BPF_CGROUP_DEVICE: u32 = 6;
    const BPF_F_ALLOW_MULTI: u32 = 2;
    let attr: [u32; 5] = [
        cgroup.as_raw_fd().cast_unsigned(),
        program.as_raw_fd().cast_unsigned(),
        BPF_CGROUP_DEVICE,
        BPF_F_ALLOW_MULTI,
        0,
    ];
    // SAFETY: `attr` is the head of a bpf_attr for PROG_ATTACH, of the size passed.
    check(unsafe { libc::syscall(libc::SYS_bpf, BPF_PROG_ATTACH, attr.as_ptr(), size_of_val(&attr)) })
        .map(drop)
}

/// Replaces this process. Returns only on failure. `argv` and `envp` end with a null pointer.
pub fn execve(path: &CStr, argv: &CStringArray, envp: &CStringArray) -> io::Error {
    // SAFETY: all three are null-terminated and outlive the call, which does not return on success.
    unsafe { libc::execve(path.as_ptr(), argv.pointers.as_ptr(), envp.pointers.as_ptr()) };
    io::Error::last_os_error()
}

/// A null-terminated array of C strings, as execve(2) takes.
#[derive(Debug)]
pub struct CStringArray {
    pointers: Vec<*const libc::c_char>,
    /// Keeps what `pointers` point to.
    _strings: Vec<std::ffi::CString>,
}

impl CStringArray {
    /// Copies the strings.
    ///
    /// # Errors
    /// `InvalidInput` when one holds a zero byte.
    pub fn new<S: AsRef<str>>(items: impl IntoIterator<Item = S>) -> io::Result<Self> {
        let strings = items
            .into_iter()
            .map(|item| std::ffi::CString::new(item.as_ref()))
            .collect::<Result<Vec<_>, _>>()?;
        let mut pointers: Vec<_> = strings.iter().map(|s| s.as_ptr()).collect();
        pointers.push(ptr::null());
        Ok(Self { pointers, _strings: strings })
    }
}

/// Sets the ids of the calling thread's file accesses aside: closes every descriptor from `first` on.
///
/// # Errors
/// close_range(2)'s; `ENOSYS` before kernel 5.9.
pub fn set_cloexec_from(first: u32) -> io::Result<()> {
    const CLOSE_RANGE_CLOEXEC: libc::c_uint = 4;
    // SAFETY: three integers; descriptors are only marked, none is closed under its owner.
    check(unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, CLOSE_RANGE_CLOEXEC) }).map(drop)
}

/// Closes `first` and all above, whoever owns them: for a process that goes on as something else and
/// never returns to its owners.
///
/// # Errors
/// close_range(2)'s.
pub fn close_from(first: u32) -> io::Result<()> {
    // SAFETY: close_range takes integers. Owners of these descriptors are never dropped: see above.
    check(unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, 0) }).map(drop)
}

/// Marks one descriptor to be kept over exec.
///
/// # Errors
/// fcntl(2)'s.
pub fn clear_cloexec(fd: RawFd) -> io::Result<()> {
    // SAFETY: fcntl F_SETFD takes integers.
    check(unsafe { libc::fcntl(fd, libc::F_SETFD, 0) }.into()).map(drop)
}

/// dup2(2) onto a descriptor number that this process does not own through a Rust value.
///
/// # Errors
/// dup2(2)'s.
pub fn dup2(from: BorrowedFd<'_>, to: RawFd) -> io::Result<()> {
    // SAFETY: two integers; callers use it just before exec on 0, 1 and 2.
    check(unsafe { libc::dup2(from.as_raw_fd(), to) }.into()).map(drop)
}

/// Makes the terminal behind `fd` this session's controlling terminal.
///
/// # Errors
/// ioctl(2)'s.
pub fn set_controlling_terminal(fd: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: TIOCSCTTY takes an integer argument.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TIOCSCTTY, 0) }.into()).map(drop)
}

/// Sends `signal` to `pid` (0 only checks).
///
/// # Errors
/// kill(2)'s.
pub fn kill(pid: i32, signal: i32) -> io::Result<()> {
    // SAFETY: two integers.
    check(unsafe { libc::kill(pid, signal) }.into()).map(drop)
}

/// Ends this process at once, without the destructors and exit handlers that belong to its parent.
pub fn exit_now(code: i32) -> ! {
    // SAFETY: _exit takes an integer and does not return.
    unsafe { libc::_exit(code) }
}

/// Gives freed heap pages back to the kernel; musl's allocator does so by itself.
pub fn trim_heap() {
    #[cfg(target_env = "gnu")]
    // SAFETY: malloc_trim only walks the allocator's own lists.
    unsafe {
        libc::malloc_trim(0)
    };
}

/// What [`wait`] reaped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reaped {
    /// Which child.
    pub pid: i32,
    /// Its exit code, or 128 plus the signal that ended it.
    pub code: i32,
}

/// Reaps `pid` (-1: any child). `None` with `is_blocking` false and nothing to reap.
///
/// # Errors
/// waitpid(2)'s, `ECHILD` where there is none.
pub fn wait(pid: i32, is_blocking: bool) -> io::Result<Option<Reaped>> {
    let mut status = 0;
    let flags = if is_blocking { 0 } else { libc::WNOHANG };
    loop {
        // SAFETY: `status` is a valid integer for the kernel to write.
        let ret = unsafe { libc::waitpid(pid, &raw mut status, flags | libc::__WALL) };
        match check(ret.into()) {
            Ok(0) => return Ok(None),
            Ok(_) => break Ok(Some(Reaped { pid: ret, code: exit_code(status) })),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

fn exit_code(status: i32) -> i32 {
    if libc::WIFSIGNALED(status) { 128 + libc::WTERMSIG(status) } else { libc::WEXITSTATUS(status) }
}

/// Blocks `signals` and returns a descriptor that reports them.
///
/// # Errors
/// sigprocmask(2)'s and signalfd(2)'s.
pub fn signal_fd(signals: &[i32]) -> io::Result<OwnedFd> {
    let set = signal_set(signals);
    // SAFETY: `set` is an initialised sigset_t; the old mask is not asked for.
    check(unsafe { libc::sigprocmask(libc::SIG_BLOCK, &raw const set, ptr::null_mut()) }.into())?;
    // SAFETY: `set` is an initialised sigset_t that outlives the call.
    let fd = unsafe { libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) };
    check(fd.into())?;
    // SAFETY: the call returned a new descriptor that nothing else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Unblocks every signal and gives each its default action, for a program about to be executed.
///
/// # Errors
/// sigprocmask(2)'s.
pub fn reset_signals() -> io::Result<()> {
    let set = signal_set(&[]);
    // SAFETY: `set` is an initialised, empty sigset_t.
    check(unsafe { libc::sigprocmask(libc::SIG_SETMASK, &raw const set, ptr::null_mut()) }.into())?;
    // Rust ignores SIGPIPE at start, and ignoring is inherited over exec; others are default already.
    // SAFETY: SIG_DFL is always a valid disposition.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
    Ok(())
}

fn signal_set(signals: &[i32]) -> libc::sigset_t {
    let mut set = std::mem::MaybeUninit::uninit();
    // SAFETY: sigemptyset initialises the set it is given.
    unsafe { libc::sigemptyset(set.as_mut_ptr()) };
    for signal in signals {
        // SAFETY: the set was initialised above.
        unsafe { libc::sigaddset(set.as_mut_ptr(), *signal) };
    }
    // SAFETY: initialised by sigemptyset.
    unsafe { set.assume_init() }
}

/// Takes ownership of descriptor `fd`, which this process inherited.
///
/// # Errors
/// `EBADF` when it isn't open.
pub fn inherit_fd(fd: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: F_GETFD only asks whether the number is open.
    check(unsafe { libc::fcntl(fd, libc::F_GETFD) }.into())?;
    // SAFETY: it is open, and inherited numbers have no other owner in this program.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Brings the loopback interface of this network namespace up.
///
/// # Errors
/// socket(2)'s and ioctl(2)'s.
pub fn loopback_up() -> io::Result<()> {
    const SIOCSIFFLAGS: libc::Ioctl = 0x8914;
    const IFF_UP: u16 = 1;
    // SAFETY: three integers.
    let fd = unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
    check(fd.into())?;
    // SAFETY: the call returned a new descriptor that nothing else owns.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    // struct ifreq: a name of 16 bytes, then the flags.
    let mut request = [0_u8; 40];
    request[..2].copy_from_slice(b"lo");
    request[16..18].copy_from_slice(&IFF_UP.to_ne_bytes());
    // SAFETY: SIOCSIFFLAGS reads one ifreq, which `request` is as large as.
    check(unsafe { libc::ioctl(socket.as_raw_fd(), SIOCSIFFLAGS, request.as_ptr()) }.into()).map(drop)
}

/// Sets an option of a socket whose value is a number.
///
/// # Errors
/// setsockopt(2)'s.
pub fn set_option(
    socket: BorrowedFd<'_>,
    level: libc::c_int,
    name: libc::c_int,
    value: libc::c_int,
) -> io::Result<()> {
    let length = length_of::<libc::c_int>();
    // SAFETY: the kernel reads `length` bytes, which is what `value` has, and which lives until it returns.
    let ret = unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, (&raw const value).cast(), length) };
    check(ret.into()).map(drop)
}

fn length_of<T>() -> libc::socklen_t {
    libc::socklen_t::try_from(size_of::<T>()).unwrap_or(libc::socklen_t::MAX)
}

fn family(number: libc::c_int) -> libc::sa_family_t {
    libc::sa_family_t::try_from(number).unwrap_or_default()
}

/// Room for an address of either version of IP.
#[repr(C)]
union Name {
    v4: libc::sockaddr_in,
    v6: libc::sockaddr_in6,
}

impl Name {
    fn new(address: SocketAddr) -> Self {
        match address {
            SocketAddr::V4(address) => Self {
                v4: libc::sockaddr_in {
                    sin_family: family(libc::AF_INET),
                    sin_port: address.port().to_be(),
                    sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(address.ip().octets()) },
                    sin_zero: [0; 8],
                },
            },
            SocketAddr::V6(address) => Self {
                v6: libc::sockaddr_in6 {
                    sin6_family: family(libc::AF_INET6),
                    sin6_port: address.port().to_be(),
                    sin6_flowinfo: 0,
                    sin6_addr: libc::in6_addr { s6_addr: address.ip().octets() },
                    sin6_scope_id: address.scope_id(),
                },
            },
        }
    }

    fn address(&self) -> io::Result<SocketAddr> {
        // SAFETY: both begin with the family, and all bytes were given a value by `new`.
        let family = unsafe { self.v6.sin6_family };
        match libc::c_int::from(family) {
            libc::AF_INET => {
                // SAFETY: the family says so; any bytes make one.
                let v4 = unsafe { self.v4 };
                Ok((Ipv4Addr::from(v4.sin_addr.s_addr.to_ne_bytes()), u16::from_be(v4.sin_port)).into())
            }
            libc::AF_INET6 => {
                // SAFETY: the family says so; any bytes make one.
                let v6 = unsafe { self.v6 };
                let ip = Ipv6Addr::from(v6.sin6_addr.s6_addr);
                Ok(SocketAddrV6::new(ip, u16::from_be(v6.sin6_port), 0, v6.sin6_scope_id).into())
            }
            _ => Err(io::ErrorKind::InvalidData.into()),
        }
    }
}

/// Room for one control message of either version of IP, aligned as the kernel wants it.
type Control = [u64; 8];

/// Receives a datagram: its length, its sender, and the address it was sent to, where the socket was asked to
/// tell (`IP_PKTINFO`, `IPV6_RECVPKTINFO`).
///
/// # Errors
/// recvmsg(2)'s.
pub fn receive_datagram(
    socket: BorrowedFd<'_>,
    buffer: &mut [u8],
) -> io::Result<(usize, SocketAddr, Option<IpAddr>)> {
    let mut name = Name::new(SocketAddr::from(([0_u16; 8], 0)));
    let mut control: Control = [0; 8];
    let mut part = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    // SAFETY: all zero is a message header without anything.
    let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
    header.msg_name = (&raw mut name).cast();
    header.msg_namelen = length_of::<Name>();
    header.msg_iov = &raw mut part;
    header.msg_iovlen = 1;
    header.msg_control = control.as_mut_ptr().cast();
    header.msg_controllen = size_of::<Control>() as _;
    // SAFETY: the header's pointers lead to live locals of the lengths beside them.
    let received = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut header, libc::MSG_DONTWAIT) };
    let length = usize::try_from(check(received as libc::c_long)?).unwrap_or_default();
    // SAFETY: the header is the one that the kernel has filled in.
    let first = unsafe { libc::CMSG_FIRSTHDR(&raw const header) };
    // SAFETY: null, or it leads into `control`, which is aligned for it and lives.
    let message = unsafe { first.as_ref() };
    let to = message.and_then(|message| {
        // SAFETY: the message's data follow its header in `control`.
        let data = unsafe { libc::CMSG_DATA(first) };
        match (message.cmsg_level, message.cmsg_type) {
            (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
                // SAFETY: that is what the kernel puts there; the read needs no alignment.
                let info = unsafe { data.cast::<libc::in_pktinfo>().read_unaligned() };
                Some(Ipv4Addr::from(info.ipi_spec_dst.s_addr.to_ne_bytes()).into())
            }
            (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
                // SAFETY: that is what the kernel puts there; the read needs no alignment.
                let info = unsafe { data.cast::<libc::in6_pktinfo>().read_unaligned() };
                Some(Ipv6Addr::from(info.ipi6_addr.s6_addr).into())
            }
            _ => None,
        }
    });
    Ok((length, name.address()?, to))
}

/// Sends a datagram, from one of this computer's addresses if that is given.
///
/// # Errors
/// sendmsg(2)'s.
pub fn send_datagram(
    socket: BorrowedFd<'_>,
    bytes: &[u8],
    to: SocketAddr,
    from: Option<IpAddr>,
) -> io::Result<()> {
    let mut name = Name::new(to);
    let mut control: Control = [0; 8];
    let mut part = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    // SAFETY: all zero is a message header without anything.
    let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
    header.msg_name = (&raw mut name).cast();
    header.msg_namelen =
        if to.is_ipv4() { length_of::<libc::sockaddr_in>() } else { length_of::<libc::sockaddr_in6>() };
    header.msg_iov = &raw mut part;
    header.msg_iovlen = 1;
    if let Some(from) = from {
        let (level, kind, length) = match from {
            IpAddr::V4(_) => (libc::IPPROTO_IP, libc::IP_PKTINFO, size_of::<libc::in_pktinfo>()),
            IpAddr::V6(_) => (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, size_of::<libc::in6_pktinfo>()),
        };
        let length = u32::try_from(length).unwrap_or_default();
        header.msg_control = control.as_mut_ptr().cast();
        // SAFETY: computes a number.
        header.msg_controllen = unsafe { libc::CMSG_SPACE(length) } as _;
        // SAFETY: computes a number.
        let whole = unsafe { libc::CMSG_LEN(length) };
        // SAFETY: the header has room for one message, so this leads to its beginning.
        let first = unsafe { libc::CMSG_FIRSTHDR(&raw const header) };
        // SAFETY: all zero is a head without anything; musl's has padding that can't be named.
        let mut head: libc::cmsghdr = unsafe { std::mem::zeroed() };
        (head.cmsg_len, head.cmsg_level, head.cmsg_type) = (whole as _, level, kind);
        // SAFETY: `first` leads to the beginning of `control`, which is large and aligned enough.
        unsafe { first.write(head) };
        // SAFETY: as above; the data follow.
        let data = unsafe { libc::CMSG_DATA(first) };
        match from {
            IpAddr::V4(from) => {
                let spec = libc::in_addr { s_addr: u32::from_ne_bytes(from.octets()) };
                let any = libc::in_addr { s_addr: 0 };
                let info = libc::in_pktinfo { ipi_ifindex: 0, ipi_spec_dst: spec, ipi_addr: any };
                // SAFETY: `control` has room for it, and the write needs no alignment.
                unsafe { data.cast::<libc::in_pktinfo>().write_unaligned(info) };
            }
            IpAddr::V6(from) => {
                let ipi6_addr = libc::in6_addr { s6_addr: from.octets() };
                let info = libc::in6_pktinfo { ipi6_addr, ipi6_ifindex: 0 };
                // SAFETY: `control` has room for it, and the write needs no alignment.
                unsafe { data.cast::<libc::in6_pktinfo>().write_unaligned(info) };
            }
        }
    }
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    // SAFETY: the header's pointers lead to live locals of the lengths beside them; nothing is written to them.
    let sent = unsafe { libc::sendmsg(socket.as_raw_fd(), &raw const header, flags) };
    check(sent as libc::c_long).map(drop)
}
