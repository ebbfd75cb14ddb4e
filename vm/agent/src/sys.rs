//! System calls that no safe form exists of: terminals of children, interfaces, trimming, powering off.
#![expect(unsafe_code, reason = "ioctl(2) and what is between fork and exec have no safe form")]

use std::fs::File;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd, BorrowedFd, IntoRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

use rustix::net::{AddressFamily, SocketFlags, SocketType, eth, socket, socket_with};
use rustix::process::{Resource, Rlimit, setrlimit};
use rustix::thread::{CapabilitySet, UnshareFlags};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// `FITRIM` of linux/fs.h: _IOWR('X', 121, struct fstrim_range).
const FITRIM: libc::Ioctl = 0xc018_5879_u32 as libc::Ioctl;
/// `RNDADDENTROPY` and `RNDRESEEDCRNG` of linux/random.h: _IOW('R', 3, int[2]), _IO('R', 7).
const RNDADDENTROPY: libc::Ioctl = 0x4008_5203_u32 as libc::Ioctl;
const RNDRESEEDCRNG: libc::Ioctl = 0x5207;
/// `BLKFLSBUF` of linux/fs.h: _IO(0x12, 97).
const BLKFLSBUF: libc::Ioctl = 0x1261;
/// How much entropy is added at once, in bytes.
const ENTROPY_MAX: usize = 256;
/// Requests of netdevice(7) and route(7), of the type that the C library's ioctl takes: glibc's and musl's differ.
const SIOCSIFADDR: libc::Ioctl = libc::SIOCSIFADDR as libc::Ioctl;
const SIOCSIFNETMASK: libc::Ioctl = libc::SIOCSIFNETMASK as libc::Ioctl;
const SIOCSIFFLAGS: libc::Ioctl = libc::SIOCSIFFLAGS as libc::Ioctl;
const SIOCGIFINDEX: libc::Ioctl = libc::SIOCGIFINDEX as libc::Ioctl;
const SIOCGIFHWADDR: libc::Ioctl = libc::SIOCGIFHWADDR as libc::Ioctl;
const SIOCADDRT: libc::Ioctl = libc::SIOCADDRT as libc::Ioctl;

/// `ARPHRD_ETHER` of net/if_arp.h.
const ETHERNET: libc::sa_family_t = 1;
/// `AF_INET` as sockaddr_in has it, and `IFF_UP | IFF_RUNNING` as ifreq does (netdevice(7)).
const FAMILY: libc::sa_family_t = 2;
const UP: libc::c_short = 0x1 | 0x40;

/// `struct fstrim_range` of linux/fs.h.
#[repr(C)]
struct TrimRange {
    start: u64,
    length: u64,
    minimum: u64,
}

/// `struct rand_pool_info` of linux/random.h, with room for its bytes.
#[repr(C)]
struct EntropyInfo {
    bits: libc::c_int,
    length: libc::c_int,
    bytes: [u8; ENTROPY_MAX],
}

/// `struct in6_ifreq` of linux/ipv6.h.
#[repr(C)]
struct Address6Request {
    address: libc::in6_addr,
    prefix: u32,
    index: libc::c_int,
}

/// `struct in6_rtmsg` of linux/ipv6_route.h.
#[repr(C)]
struct Route6Request {
    destination: libc::in6_addr,
    source: libc::in6_addr,
    gateway: libc::in6_addr,
    kind: u32,
    destination_prefix: u16,
    source_prefix: u16,
    metric: u32,
    info: libc::c_ulong,
    flags: u32,
    index: libc::c_int,
}

/// Puts this process, and those that it starts, into new namespaces (unshare(2)).
pub(crate) fn unshare(namespaces: UnshareFlags) -> io::Result<()> {
    // SAFETY: what could be unsound is to part from open files (CLONE_FILES), which no caller asks for.
    Ok(unsafe { rustix::thread::unshare_unsafe(namespaces) }?)
}

/// Does something to files as another user would, on this thread alone (setfsuid(2)).
pub(crate) fn as_user<T>(uid: u32, gid: u32, work: impl FnOnce() -> T) -> T {
    if (uid, gid) == (0, 0) {
        return work();
    }
    set_file_user(uid, gid);
    let done = work();
    set_file_user(0, 0);
    done
}

/// The group first and last: what root alone may is lost with the user, and had again.
fn set_file_user(uid: u32, gid: u32) {
    if uid == 0 {
        // SAFETY: setfsuid has no condition; in the C library it is the system call, of the calling thread alone.
        unsafe { libc::setfsuid(uid) };
    }
    // SAFETY: the same of setfsgid.
    unsafe { libc::setfsgid(gid) };
    if uid != 0 {
        // SAFETY: as above.
        unsafe { libc::setfsuid(uid) };
    }
}

/// Does something to a file as who may not keep its set-id bits would (`CAP_FSETID` of capabilities(7)), if so.
pub(crate) fn without_keeping_set_id<T>(
    is_so: bool,
    work: impl FnOnce() -> rustix::io::Result<T>,
) -> rustix::io::Result<T> {
    if !is_so {
        return work();
    }
    let all = rustix::thread::capabilities(None)?;
    let mut less = all;
    less.effective.remove(CapabilitySet::FSETID);
    rustix::thread::set_capabilities(None, less)?;
    let done = work();
    rustix::thread::set_capabilities(None, all)?;
    done
}

/// Closes a copy of a descriptor, which asks a file's server whether all has arrived.
pub(crate) fn flush(file: BorrowedFd<'_>) -> rustix::io::Result<()> {
    let copy = rustix::io::fcntl_dupfd_cloexec(file, 0)?.into_raw_fd();
    // SAFETY: `copy` was just made, is owned by nobody else, and is not used again.
    match unsafe { libc::close(copy) } {
        0 => Ok(()),
        _ => {
            Err(rustix::io::Errno::from_io_error(&io::Error::last_os_error())
                .unwrap_or(rustix::io::Errno::IO))
        }
    }
}

/// As many open files as the kernel lets anybody have; children begin with what is usual.
pub(crate) fn set_limits() {
    let limit = Rlimit { current: Some(1 << 20), maximum: Some(1 << 20) };
    // Where it can't be raised, the usual one has to do.
    let _ = setrlimit(Resource::Nofile, limit);
}

/// Makes a child lead a session whose terminal is its standard input.
pub(crate) fn lead_session(command: &mut Command) {
    let lead = || {
        rustix::process::setsid()?;
        rustix::process::ioctl_tiocsctty(rustix::stdio::stdin())?;
        Ok(())
    };
    // SAFETY: between fork and exec only what is async-signal-safe may happen. The closure makes two system calls and
    // converts their errno, which neither allocates nor locks.
    unsafe { command.pre_exec(lead) };
}

/// Gives the device below a file system what nothing uses (ioctl_fitrim(2)).
pub(crate) fn trim(on: &File) -> io::Result<()> {
    let mut range = TrimRange { start: 0, length: u64::MAX, minimum: 0 };
    // SAFETY: FITRIM reads and writes one fstrim_range, which `range` is in size and layout, and which outlives the call.
    let result = unsafe { libc::ioctl(on.as_raw_fd(), FITRIM, &raw mut range) };
    check(result)
}

/// Lets what is below a mount that is at no place be changed by it (mount_setattr(2)).
pub(crate) fn make_writable(mount: &OwnedFd) -> io::Result<()> {
    let attributes =
        libc::mount_attr { attr_set: 0, attr_clr: libc::MOUNT_ATTR_RDONLY, propagation: 0, userns_fd: 0 };
    // SAFETY: mount_setattr reads an empty path, with its zero byte, and one mount_attr of the size that is given; both
    // outlive the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            &raw const attributes,
            size_of::<libc::mount_attr>(),
        )
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Mixes `bytes` into the kernel's entropy, has it count for as much as it is long, and has the generator begin anew from
/// it (random(4)).
pub(crate) fn add_entropy(bytes: &[u8]) -> io::Result<()> {
    let mut info = EntropyInfo { bits: 0, length: 0, bytes: [0; ENTROPY_MAX] };
    let place = info.bytes.get_mut(..bytes.len()).ok_or(io::ErrorKind::InvalidInput)?;
    place.copy_from_slice(bytes);
    info.length = i32::try_from(bytes.len()).map_err(io::Error::other)?;
    info.bits = info.length * 8;
    let random = File::options().write(true).open("/dev/urandom")?;
    // SAFETY: RNDADDENTROPY reads one rand_pool_info and as many bytes behind it as that says, all of them in `info`, which
    // outlives the call.
    check(unsafe { libc::ioctl(random.as_raw_fd(), RNDADDENTROPY, &raw const info) })?;
    // SAFETY: RNDRESEEDCRNG takes nothing.
    check(unsafe { libc::ioctl(random.as_raw_fd(), RNDRESEEDCRNG) })
}

/// Has the kernel forget what it has read of a device (`BLKFLSBUF`).
pub(crate) fn forget_contents(device: &File) -> io::Result<()> {
    // SAFETY: BLKFLSBUF takes nothing.
    check(unsafe { libc::ioctl(device.as_raw_fd(), BLKFLSBUF, 0) })
}

/// Bytes of the kernel's pages.
pub(crate) fn page_size() -> u64 {
    // SAFETY: sysconf(3) takes a plain number, and none that it does not know is a failure and no more.
    let size = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    u64::try_from(size).unwrap_or(0)
}

/// Ends the guest. If the kernel refuses, the first process ends, which it does not survive either.
pub(crate) fn power_off() -> ! {
    rustix::fs::sync();
    let _ = rustix::system::reboot(rustix::system::RebootCommand::PowerOff);
    std::process::abort()
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn control(family: AddressFamily) -> io::Result<OwnedFd> {
    Ok(socket(family, SocketType::DGRAM, None)?)
}

/// An ifreq (netdevice(7)) about `interface`, all else zero.
fn request(interface: &str) -> io::Result<libc::ifreq> {
    // SAFETY: ifreq is a plain C struct of integers and a union of such, for which all zeroes is a value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    let places = request.ifr_name.len();
    if interface.len() >= places {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    for (place, byte) in request.ifr_name.iter_mut().zip(interface.bytes()) {
        *place = libc::c_char::from_ne_bytes([byte]);
    }
    Ok(request)
}

/// A socket address of version 4, as the kernel's structs hold it.
fn address4(address: Ipv4Addr) -> libc::sockaddr {
    let inner = libc::sockaddr_in {
        sin_family: FAMILY,
        sin_port: 0,
        sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(address.octets()) },
        sin_zero: [0; 8],
    };
    // SAFETY: sockaddr_in and sockaddr are both 16 bytes of plain integers; any bytes are a value of either.
    unsafe { std::mem::transmute::<libc::sockaddr_in, libc::sockaddr>(inner) }
}

fn send(socket: &OwnedFd, what: libc::Ioctl, request: &mut libc::ifreq) -> io::Result<()> {
    // SAFETY: each `what` used here (SIOCSIFADDR and its like, netdevice(7)) takes one ifreq, which lives through the call.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), what, std::ptr::from_mut(request)) };
    check(result)
}

/// Sets an interface's address and network, and brings it up.
pub(crate) fn set_address(interface: &str, address: Ipv4Addr, prefix: u8) -> io::Result<()> {
    let socket = control(AddressFamily::INET)?;
    let mut wanted = request(interface)?;
    wanted.ifr_ifru.ifru_addr = address4(address);
    send(&socket, SIOCSIFADDR, &mut wanted)?;
    let mask = u32::MAX.checked_shl(32 - u32::from(prefix.min(32))).unwrap_or(0);
    wanted.ifr_ifru.ifru_netmask = address4(Ipv4Addr::from_bits(mask));
    send(&socket, SIOCSIFNETMASK, &mut wanted)?;
    bring_up(interface)
}

/// Takes an interface's address away, and with it all ways that go by it.
pub(crate) fn clear_address(interface: &str) -> io::Result<()> {
    let socket = control(AddressFamily::INET)?;
    let mut wanted = request(interface)?;
    wanted.ifr_ifru.ifru_addr = address4(Ipv4Addr::UNSPECIFIED);
    send(&socket, SIOCSIFADDR, &mut wanted)
}

/// The address of an interface's card, which is of Ethernet's kind.
pub(crate) fn hardware_address(interface: &str) -> io::Result<[u8; 6]> {
    let socket = control(AddressFamily::INET)?;
    let mut wanted = request(interface)?;
    send(&socket, SIOCGIFHWADDR, &mut wanted)?;
    // SAFETY: SIOCGIFHWADDR has just filled this member in.
    let address = unsafe { wanted.ifr_ifru.ifru_hwaddr };
    if address.sa_family != ETHERNET {
        return Err(io::ErrorKind::Unsupported.into());
    }
    let mut bytes = [0; 6];
    for (place, byte) in bytes.iter_mut().zip(address.sa_data) {
        [*place] = byte.to_ne_bytes();
    }
    Ok(bytes)
}

/// Brings an interface up.
pub(crate) fn bring_up(interface: &str) -> io::Result<()> {
    let socket = control(AddressFamily::INET)?;
    let mut wanted = request(interface)?;
    wanted.ifr_ifru.ifru_flags = UP;
    send(&socket, SIOCSIFFLAGS, &mut wanted)
}

/// The way to everywhere else.
pub(crate) fn add_default_route(gateway: Ipv4Addr) -> io::Result<()> {
    let socket = control(AddressFamily::INET)?;
    // SAFETY: rtentry is a plain C struct of integers and pointers, for which all zeroes is a value.
    let mut route: libc::rtentry = unsafe { std::mem::zeroed() };
    route.rt_dst = address4(Ipv4Addr::UNSPECIFIED);
    route.rt_genmask = address4(Ipv4Addr::UNSPECIFIED);
    route.rt_gateway = address4(gateway);
    route.rt_flags = libc::RTF_UP | libc::RTF_GATEWAY;
    // SAFETY: SIOCADDRT on an AF_INET socket takes one rtentry; its only pointer, the device's name, is null, as allowed.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), SIOCADDRT, &raw mut route) };
    check(result)
}

fn address6(address: Ipv6Addr) -> libc::in6_addr {
    libc::in6_addr { s6_addr: address.octets() }
}

fn index_of(socket: &OwnedFd, interface: &str) -> io::Result<libc::c_int> {
    let mut wanted = request(interface)?;
    send(socket, SIOCGIFINDEX, &mut wanted)?;
    // SAFETY: SIOCGIFINDEX has just filled this member in.
    Ok(unsafe { wanted.ifr_ifru.ifru_ifindex })
}

/// Adds an IPv6 address.
pub(crate) fn set_address6(interface: &str, address: Ipv6Addr, prefix: u8) -> io::Result<()> {
    let socket = control(AddressFamily::INET6)?;
    let index = index_of(&socket, interface)?;
    let mut wanted = Address6Request { address: address6(address), prefix: prefix.into(), index };
    // SAFETY: SIOCSIFADDR on an AF_INET6 socket takes one in6_ifreq, which `wanted` is in size and layout.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), SIOCSIFADDR, &raw mut wanted) };
    check(result)
}

/// The way to everywhere else, for IPv6.
pub(crate) fn add_default_route6(interface: &str, gateway: Ipv6Addr) -> io::Result<()> {
    let socket = control(AddressFamily::INET6)?;
    let index = index_of(&socket, interface)?;
    let any = address6(Ipv6Addr::UNSPECIFIED);
    let mut route = Route6Request {
        destination: any,
        source: any,
        gateway: address6(gateway),
        kind: 0,
        destination_prefix: 0,
        source_prefix: 0,
        metric: 1024,
        info: 0,
        flags: u32::from(libc::RTF_UP | libc::RTF_GATEWAY),
        index,
    };
    // SAFETY: SIOCADDRT on an AF_INET6 socket takes one in6_rtmsg, which `route` is in size and layout.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), SIOCADDRT, &raw mut route) };
    check(result)
}

/// What comes to an interface as IPv4, whoever it is for: packets from that header on (packet(7)).
pub(crate) fn packets_to(interface: &str) -> io::Result<AsyncFd<OwnedFd>> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let packets = socket_with(AddressFamily::PACKET, SocketType::DGRAM, flags, Some(eth::IP))?;
    let family = libc::sa_family_t::try_from(libc::AF_PACKET).map_err(io::Error::other)?;
    let protocol = u16::try_from(libc::ETH_P_IP).map_err(io::Error::other)?;
    let place = libc::sockaddr_ll {
        sll_family: family,
        sll_protocol: protocol.to_be(),
        sll_ifindex: index_of(&control(AddressFamily::INET)?, interface)?,
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    };
    let length = libc::socklen_t::try_from(size_of_val(&place)).map_err(io::Error::other)?;
    // SAFETY: bind reads `length` bytes of the address, which is that long and lives through the call.
    let result = unsafe { libc::bind(packets.as_raw_fd(), (&raw const place).cast(), length) };
    check(result)?;
    // SAFETY: it is owned, so it stays the same open descriptor until it is dropped, and nobody else registers it.
    Ok(unsafe { AsyncFd::register_with_interest(packets, Interest::READABLE) }?)
}

/// Sets one of a socket's options that are a number (socket(7), ip(7), ipv6(7)).
pub(crate) fn set_option(
    socket: BorrowedFd<'_>,
    level: libc::c_int,
    name: libc::c_int,
    value: libc::c_int,
) -> io::Result<()> {
    let length = libc::socklen_t::try_from(size_of_val(&value)).map_err(io::Error::other)?;
    // SAFETY: setsockopt reads `length` bytes, which is what `value` has, and which lives through the call.
    let result =
        unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, (&raw const value).cast(), length) };
    check(result)
}

/// Tells of errors of a descriptor, and of nothing else.
pub(crate) fn errors_of(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: it is owned, so it stays the same open descriptor until it is dropped, and nobody else registers it.
    Ok(unsafe { AsyncFd::register_with_interest(fd, Interest::ERROR) }?)
}
