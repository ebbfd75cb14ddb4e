//! The compiler from OCI seccomp rules to classic BPF.

use std::collections::BTreeMap;
use std::str::FromStr;

use crate::error::{Error, Result};
use crate::spec::{Seccomp, SyscallArg, SyscallRule};

/// A compiled filter: each instruction is a `struct sock_filter`, as eight bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Program {
    /// In order of execution.
    pub instructions: Vec<u64>,
    /// `SECCOMP_FILTER_FLAG_*`.
    pub flags: libc::c_ulong,
    /// Whether a rule asks a listener.
    pub has_notify: bool,
}

/// The kernel's limit of instructions, `BPF_MAXINSNS`.
const MAX_INSTRUCTIONS: usize = 4096;

// Offsets in struct seccomp_data.
const OFFSET_NR: u32 = 0;
const OFFSET_ARCH: u32 = 4;
const OFFSET_ARGS: u32 = 16;

const LOAD: u16 = 0x20; // BPF_LD | BPF_W | BPF_ABS
const AND: u16 = 0x54; // BPF_ALU | BPF_AND | BPF_K
const JUMP_ALWAYS: u16 = 0x05;
const JUMP_EQ: u16 = 0x15;
const JUMP_GT: u16 = 0x25;
const JUMP_GE: u16 = 0x35;
const RETURN: u16 = 0x06;

/// The bit that marks an x32 system call on x86_64.
const X32_BIT: u32 = 0x4000_0000;

const RET_KILL_PROCESS: u32 = 0x8000_0000;
const RET_ERRNO: u32 = 0x0005_0000;
const RET_NOTIFY: u32 = 0x7fc0_0000;

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Arch {
    X86_64,
    X86,
    X32,
    Aarch64,
    Arm,
}

impl Arch {
    fn parse(name: &str) -> Option<Self> {
        Some(match name {
            "SCMP_ARCH_X86_64" => Self::X86_64,
            "SCMP_ARCH_X86" => Self::X86,
            "SCMP_ARCH_X32" => Self::X32,
            "SCMP_ARCH_AARCH64" => Self::Aarch64,
            "SCMP_ARCH_ARM" => Self::Arm,
            _ => return None,
        })
    }

    fn native() -> Self {
        if cfg!(target_arch = "aarch64") { Self::Aarch64 } else { Self::X86_64 }
    }

    /// `AUDIT_ARCH_*`. x32 shares x86_64's and is told apart by [`X32_BIT`].
    fn audit(self) -> u32 {
        match self {
            Self::X86_64 | Self::X32 => 0xc000_003e,
            Self::X86 => 0x4000_0003,
            Self::Aarch64 => 0xc000_00b7,
            Self::Arm => 0x4000_0028,
        }
    }

    fn number(self, name: &str) -> Option<u32> {
        // The table has them by other names than the kernel's headers and libseccomp.
        let name = match (self, name) {
            (Self::Aarch64, "newfstatat") => "fstatat",
            (Self::Aarch64, "sync_file_range") => "sync_file_range2",
            _ => name,
        };
        let id = match self {
            Self::X86_64 | Self::X32 => syscalls::x86_64::Sysno::from_str(name).ok()?.id(),
            Self::X86 => syscalls::x86::Sysno::from_str(name).ok()?.id(),
            Self::Aarch64 => syscalls::aarch64::Sysno::from_str(name).ok()?.id(),
            Self::Arm => syscalls::arm::Sysno::from_str(name).ok()?.id(),
        };
        let number = u32::try_from(id).ok()?;
        Some(if self == Self::X32 { number | X32_BIT } else { number })
    }
}

/// What happens to the calls from one number on, up to the next entry's.
#[derive(Clone, PartialEq, Eq)]
struct Interval {
    first: u32,
    /// Tried in order; the last has no conditions.
    outcomes: Vec<Outcome>,
}

#[derive(Clone, PartialEq, Eq)]
struct Outcome {
    conditions: Vec<Condition>,
    ret: u32,
}

#[derive(Clone, Copy, PartialEq, Eq)]
struct Condition {
    arg: u32,
    op: Op,
    value: u64,
    /// The value compared with after masking; only of [`Op::MaskedEq`].
    masked: u64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Op {
    Eq,
    Ne,
    Lt,
    Le,
    Gt,
    Ge,
    MaskedEq,
}

/// Compiles the rules for this machine's architectures.
///
/// # Errors
/// [`Error::Invalid`] for an unknown action, operator or flag; [`Error::Unsupported`] where the
/// rules exceed the kernel's 4096 instructions.
pub fn compile(seccomp: &Seccomp) -> Result<Program> {
    let default = action(&seccomp.default_action, seccomp.default_errno_ret)?;
    let mut arches: Vec<Arch> = seccomp.architectures.iter().filter_map(|name| Arch::parse(name)).collect();
    arches.push(Arch::native());
    arches.sort_unstable();
    arches.dedup();

    let mut has_notify = false;
    let mut rules = Vec::new();
    for rule in &seccomp.syscalls {
        let ret = action(&rule.action, rule.errno_ret)?;
        has_notify |= ret == RET_NOTIFY;
        let conditions = rule.args.iter().map(condition).collect::<Result<Vec<_>>>()?;
        rules.push((rule, Outcome { conditions, ret }));
    }

    let mut code = vec![instruction(LOAD, 0, 0, OFFSET_ARCH)];
    for audit in [Arch::X86_64, Arch::X86, Arch::Aarch64, Arch::Arm].map(Arch::audit) {
        let here: Vec<Arch> = arches.iter().copied().filter(|arch| arch.audit() == audit).collect();
        if here.is_empty() {
            continue;
        }
        let mut body = vec![instruction(LOAD, 0, 0, OFFSET_NR)];
        body.extend(search(&intervals(&here, &rules, default)));
        let skip = u32::try_from(body.len()).unwrap_or(u32::MAX);
        code.push(instruction(JUMP_EQ, 1, 0, audit));
        code.push(instruction(JUMP_ALWAYS, 0, 0, skip));
        code.extend(body);
    }
    // An architecture that was not named: its numbers mean other calls.
    code.push(instruction(RETURN, 0, 0, RET_KILL_PROCESS));
    if code.len() > MAX_INSTRUCTIONS {
        return Err(Error::Unsupported {
            what: format!(
                "seccomp rules need {} instructions, the kernel takes {MAX_INSTRUCTIONS}",
                code.len()
            ),
        });
    }
    Ok(Program { instructions: code, flags: super::flags(seccomp)?, has_notify })
}

/// `SECCOMP_RET_*` for an action's name and errno.
fn action(name: &str, errno: Option<u32>) -> Result<u32> {
    let data = |default: i32| errno.unwrap_or(default.cast_unsigned()) & 0xffff;
    Ok(match name {
        "SCMP_ACT_KILL" | "SCMP_ACT_KILL_THREAD" => 0,
        "SCMP_ACT_KILL_PROCESS" => RET_KILL_PROCESS,
        "SCMP_ACT_TRAP" => 0x0003_0000,
        "SCMP_ACT_ERRNO" => RET_ERRNO | data(libc::EPERM),
        "SCMP_ACT_TRACE" => 0x7ff0_0000 | data(libc::EPERM),
        "SCMP_ACT_LOG" => 0x7ffc_0000,
        "SCMP_ACT_NOTIFY" => RET_NOTIFY,
        "SCMP_ACT_ALLOW" => 0x7fff_0000,
        other => return Err(Error::invalid(format!("seccomp action {other:?} is unknown"))),
    })
}

fn condition(arg: &SyscallArg) -> Result<Condition> {
    let op = match arg.op.as_str() {
        "SCMP_CMP_EQ" => Op::Eq,
        "SCMP_CMP_NE" => Op::Ne,
        "SCMP_CMP_LT" => Op::Lt,
        "SCMP_CMP_LE" => Op::Le,
        "SCMP_CMP_GT" => Op::Gt,
        "SCMP_CMP_GE" => Op::Ge,
        "SCMP_CMP_MASKED_EQ" => Op::MaskedEq,
        other => return Err(Error::invalid(format!("seccomp operator {other:?} is unknown"))),
    };
    if arg.index > 5 {
        return Err(Error::invalid(format!("seccomp argument index {} is over 5", arg.index)));
    }
    Ok(Condition { arg: u32::from(arg.index), op, value: arg.value, masked: arg.value_two })
}

/// The whole range of call numbers, cut where the outcome changes.
fn intervals(arches: &[Arch], rules: &[(&SyscallRule, Outcome)], default: u32) -> Vec<Interval> {
    let mut calls: BTreeMap<u32, Vec<Outcome>> = BTreeMap::new();
    for (rule, outcome) in rules {
        // A rule that only repeats the default would cost instructions and decide nothing.
        if outcome.ret == default && outcome.conditions.is_empty() {
            continue;
        }
        for number in arches.iter().flat_map(|arch| rule.names.iter().filter_map(|name| arch.number(name))) {
            let outcomes = calls.entry(number).or_default();
            if !outcomes.iter().any(|known| known.conditions.is_empty()) {
                outcomes.push(outcome.clone());
            }
        }
    }
    let fallback = Outcome { conditions: Vec::new(), ret: default };
    let plain = |ret| vec![Outcome { conditions: Vec::new(), ret }];
    let newest = calls.keys().copied().filter(|n| *n < X32_BIT).max();
    let mut list = vec![Interval { first: 0, outcomes: plain(default) }];
    for (number, mut outcomes) in calls {
        outcomes.push(fallback.clone());
        let end = outcomes.iter().position(|o| o.conditions.is_empty()).unwrap_or(0);
        outcomes.truncate(end + 1);
        list.push(Interval { first: number, outcomes });
        list.push(Interval { first: number + 1, outcomes: plain(default) });
    }
    // Programs probe for new calls and fall back on ENOSYS, not on EPERM: a call newer than any the
    // profile knows looks missing, as under runc.
    if let (Some(newest), RET_ERRNO) = (newest, default & 0xffff_0000) {
        let enosys = RET_ERRNO | libc::ENOSYS.cast_unsigned();
        list.push(Interval { first: newest + 1, outcomes: plain(enosys) });
    }
    if arches.contains(&Arch::X86_64) && !arches.contains(&Arch::X32) {
        list.push(Interval { first: X32_BIT, outcomes: plain(RET_KILL_PROCESS) });
    }
    tidy(list)
}

/// Sorts; of entries at one number the last counts; neighbours with the same outcome become one.
fn tidy(mut list: Vec<Interval>) -> Vec<Interval> {
    list.sort_by_key(|interval| interval.first);
    let mut merged: Vec<Interval> = Vec::with_capacity(list.len());
    for interval in list {
        if merged.last().is_some_and(|last| last.first == interval.first) {
            merged.pop();
        }
        if merged.last().is_none_or(|last| last.outcomes != interval.outcomes) {
            merged.push(interval);
        }
    }
    merged
}

/// Binary search over the intervals; the accumulator holds the call's number.
fn search(list: &[Interval]) -> Vec<u64> {
    let (left, right) = list.split_at(list.len() / 2);
    let Some(middle) = right.first() else { return Vec::new() };
    if left.is_empty() {
        return leaf(&middle.outcomes);
    }
    let (low, high) = (search(left), search(right));
    let mut code = match u8::try_from(low.len()) {
        Ok(near) => vec![instruction(JUMP_GE, near, 0, middle.first)],
        // Conditional jumps reach 255 instructions, unconditional ones any number.
        Err(_) => vec![
            instruction(JUMP_GE, 0, 1, middle.first),
            instruction(JUMP_ALWAYS, 0, 0, u32::try_from(low.len()).unwrap_or(u32::MAX)),
        ],
    };
    code.extend(low);
    code.extend(high);
    code
}

fn leaf(outcomes: &[Outcome]) -> Vec<u64> {
    let mut code = Vec::new();
    for outcome in outcomes {
        let mut rule = vec![instruction(RETURN, 0, 0, outcome.ret)];
        for condition in outcome.conditions.iter().rev() {
            let mut test = check(condition, rule.len());
            test.append(&mut rule);
            rule = test;
        }
        code.append(&mut rule);
    }
    code
}

/// Where a jump inside a test leads.
#[derive(Clone, Copy)]
enum To {
    Next,
    Pass,
    Fail,
}

/// Tests one 64-bit argument as two words; a failure jumps over the `rest` instructions that follow.
fn check(condition: &Condition, rest: usize) -> Vec<u64> {
    use To::{Fail, Next, Pass};
    let low_word = |v: u64| u32::try_from(v & 0xffff_ffff).unwrap_or(0);
    let high_word = |v: u64| u32::try_from(v >> 32).unwrap_or(0);
    let offset = OFFSET_ARGS + condition.arg * 8;
    let (high, low) = (high_word(condition.value), low_word(condition.value));
    let load = |offset| (LOAD, Next, Next, offset);
    // The accumulator after `load(offset + 4)` is the high word: both architectures are little-endian.
    let ordered = |on_above: To, on_below: To, jump: u16, yes: To, no: To| {
        vec![
            load(offset + 4),
            (JUMP_GT, on_above, Next, high),
            (JUMP_EQ, Next, on_below, high),
            load(offset),
            (jump, yes, no, low),
        ]
    };
    let steps = match condition.op {
        Op::Eq => {
            vec![load(offset + 4), (JUMP_EQ, Next, Fail, high), load(offset), (JUMP_EQ, Pass, Fail, low)]
        }
        Op::Ne => {
            vec![load(offset + 4), (JUMP_EQ, Next, Pass, high), load(offset), (JUMP_EQ, Fail, Pass, low)]
        }
        Op::Gt => ordered(Pass, Fail, JUMP_GT, Pass, Fail),
        Op::Ge => ordered(Pass, Fail, JUMP_GE, Pass, Fail),
        Op::Le => ordered(Fail, Pass, JUMP_GT, Fail, Pass),
        Op::Lt => ordered(Fail, Pass, JUMP_GE, Fail, Pass),
        Op::MaskedEq => vec![
            load(offset + 4),
            (AND, Next, Next, high),
            (JUMP_EQ, Next, Fail, high_word(condition.masked)),
            load(offset),
            (AND, Next, Next, low),
            (JUMP_EQ, Pass, Fail, low_word(condition.masked)),
        ],
    };
    let count = steps.len();
    let distance = |to: To, at: usize| match to {
        Next => 0,
        Pass => u8::try_from(count - at - 1).unwrap_or(u8::MAX),
        // Six tests of six instructions and a return: far below 255.
        Fail => u8::try_from(count - at - 1 + rest).unwrap_or(u8::MAX),
    };
    steps
        .into_iter()
        .enumerate()
        .map(|(at, (code, yes, no, k))| instruction(code, distance(yes, at), distance(no, at), k))
        .collect()
}

/// One `struct sock_filter` in memory order: code, jt, jf, k.
fn instruction(code: u16, jump_true: u8, jump_false: u8, k: u32) -> u64 {
    let mut bytes = [0; 8];
    bytes[0..2].copy_from_slice(&code.to_ne_bytes());
    bytes[2] = jump_true;
    bytes[3] = jump_false;
    bytes[4..8].copy_from_slice(&k.to_ne_bytes());
    u64::from_ne_bytes(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs a program as the kernel would, on one call.
    fn run(program: &[u64], arch: u32, nr: u32, args: [u64; 6]) -> u32 {
        let mut data = Vec::new();
        data.extend(nr.to_ne_bytes());
        data.extend(arch.to_ne_bytes());
        data.extend(0_u64.to_ne_bytes());
        args.iter().for_each(|arg| data.extend(arg.to_ne_bytes()));
        let (mut at, mut acc) = (0, 0_u32);
        loop {
            let b = program[at].to_ne_bytes();
            let (code, jt, jf) = (u16::from_ne_bytes([b[0], b[1]]), b[2] as usize, b[3] as usize);
            let k = u32::from_ne_bytes([b[4], b[5], b[6], b[7]]);
            let jump = |yes: bool| if yes { jt } else { jf };
            at += 1 + match code {
                LOAD => {
                    acc = u32::from_ne_bytes(data[k as usize..k as usize + 4].try_into().unwrap());
                    0
                }
                AND => {
                    acc &= k;
                    0
                }
                JUMP_ALWAYS => k as usize,
                JUMP_EQ => jump(acc == k),
                JUMP_GT => jump(acc > k),
                JUMP_GE => jump(acc >= k),
                RETURN => return k,
                other => panic!("opcode {other:#x}"),
            };
        }
    }

    fn rule(names: &[&str], action: &str, args: Vec<SyscallArg>) -> SyscallRule {
        SyscallRule {
            names: names.iter().map(ToString::to_string).collect(),
            action: action.into(),
            errno_ret: None,
            args,
        }
    }

    fn arg(index: u8, op: &str, value: u64, value_two: u64) -> SyscallArg {
        SyscallArg { index, value, value_two, op: op.into() }
    }

    const ALLOW: u32 = 0x7fff_0000;
    const X86_64: u32 = 0xc000_003e;

    #[test]
    fn calls_are_known_by_the_names_that_profiles_have_for_them() {
        let check =
            |arch: Arch, name: &str, number: u32| assert_eq!(arch.number(name), Some(number), "{name}");
        check(Arch::X86_64, "newfstatat", 262);
        check(Arch::X86_64, "sync_file_range", 277);
        check(Arch::X32, "read", X32_BIT);
        // asm-generic/unistd.h
        check(Arch::Aarch64, "newfstatat", 79);
        check(Arch::Aarch64, "fstat", 80);
        check(Arch::Aarch64, "sync_file_range", 84);
        check(Arch::Aarch64, "openat", 56);
        check(Arch::Aarch64, "statx", 291);
        check(Arch::Arm, "fstatat64", 327);
    }

    #[test]
    fn each_operator_compares_all_64_bits() {
        type Holds = fn(u64, u64) -> bool;
        let big = 0x1_0000_0005_u64;
        let cases: [(&str, Holds); 6] = [
            ("SCMP_CMP_EQ", |a, v| a == v),
            ("SCMP_CMP_NE", |a, v| a != v),
            ("SCMP_CMP_LT", |a, v| a < v),
            ("SCMP_CMP_LE", |a, v| a <= v),
            ("SCMP_CMP_GT", |a, v| a > v),
            ("SCMP_CMP_GE", |a, v| a >= v),
        ];
        for (op, expected) in cases {
            let seccomp = Seccomp {
                default_action: "SCMP_ACT_ERRNO".into(),
                architectures: vec!["SCMP_ARCH_X86_64".into()],
                syscalls: vec![rule(&["read"], "SCMP_ACT_ALLOW", vec![arg(2, op, big, 0)])],
                ..Seccomp::default()
            };
            let program = compile(&seccomp).unwrap();
            for a in [0, 5, 6, big - 1, big, big + 1, big + (1 << 32), u64::MAX] {
                let ret = run(&program.instructions, X86_64, 0, [9, 9, a, 9, 9, 9]);
                assert_eq!(ret == ALLOW, expected(a, big), "{a:#x} {op} {big:#x}");
            }
        }
    }

    #[test]
    fn masked_equality_and_rule_order_hold() {
        let seccomp = Seccomp {
            default_action: "SCMP_ACT_ERRNO".into(),
            syscalls: vec![
                rule(&["clone"], "SCMP_ACT_ALLOW", vec![arg(0, "SCMP_CMP_MASKED_EQ", 0x7e02_0000, 0)]),
                rule(&["clone", "write"], "SCMP_ACT_KILL_PROCESS", vec![]),
            ],
            ..Seccomp::default()
        };
        let program = compile(&seccomp).unwrap();
        let clone = |flags| run(&program.instructions, X86_64, 56, [flags, 0, 0, 0, 0, 0]);
        assert_eq!(clone(0x11), ALLOW);
        assert_eq!(clone(0x1000_0011), RET_KILL_PROCESS);
        assert_eq!(run(&program.instructions, X86_64, 1, [0; 6]), RET_KILL_PROCESS);
    }

    #[test]
    fn foreign_architectures_die_and_newer_calls_look_missing() {
        let seccomp = Seccomp {
            default_action: "SCMP_ACT_ERRNO".into(),
            architectures: vec!["SCMP_ARCH_X86_64".into(), "SCMP_ARCH_X86".into()],
            syscalls: vec![rule(&["read", "openat"], "SCMP_ACT_ALLOW", vec![])],
            ..Seccomp::default()
        };
        let program = compile(&seccomp).unwrap();
        let ret = |arch, nr| run(&program.instructions, arch, nr, [0; 6]);
        assert_eq!(ret(X86_64, 0), ALLOW);
        assert_eq!(ret(0x4000_0003, 3), ALLOW, "read is 3 on i386");
        assert_eq!(ret(X86_64, 3), RET_ERRNO | 1);
        assert_eq!(ret(X86_64, 9999), RET_ERRNO | 38);
        assert_eq!(ret(X86_64, X32_BIT), RET_KILL_PROCESS);
        assert_eq!(ret(0xc000_00b7, 0), RET_KILL_PROCESS);
    }
}
