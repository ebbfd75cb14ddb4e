//! Compiles device rules to the eBPF program that cgroup v2 asks before a device is opened or made.
//!
//! The kernel passes `struct bpf_cgroup_dev_ctx { access_type, major, minor }`, the low half of
//! `access_type` being the device's type and the high half what is wanted. The last rule that
//! matches decides, so rules are tested from the last to the first.

use crate::error::{Error, Result};
use crate::spec::DeviceRule;

const MOV64_IMM: u8 = 0xb7;
const MOV32_REG: u8 = 0xbc;
const AND32_IMM: u8 = 0x54;
const RSH32_IMM: u8 = 0x74;
const LOAD_WORD: u8 = 0x61;
const JUMP_NE_IMM: u8 = 0x55;
const JUMP_NE_REG: u8 = 0x5d;
const EXIT: u8 = 0x95;

// Registers: r1 is the context, r2 the type, r3 the access, r4 major, r5 minor, r6 scratch.

/// Compiles the rules; a device no rule matches is refused.
pub(super) fn compile(rules: &[DeviceRule]) -> Result<Vec<u64>> {
    let mut code = vec![
        op(LOAD_WORD, 2, 1, 0, 0),
        op(MOV32_REG, 3, 2, 0, 0),
        op(AND32_IMM, 2, 0, 0, 0xffff),
        op(RSH32_IMM, 3, 0, 0, 16),
        op(LOAD_WORD, 4, 1, 4, 0),
        op(LOAD_WORD, 5, 1, 8, 0),
    ];
    for rule in rules.iter().rev() {
        let mut tests = Vec::new();
        match rule.kind.as_str() {
            "" | "a" => {}
            "b" => tests.push(Test::Type(1)),
            "c" | "u" => tests.push(Test::Type(2)),
            other => return Err(Error::invalid(format!("device type {other:?} is unknown"))),
        }
        let access = access_bits(&rule.access)?;
        if access != 7 {
            tests.push(Test::Access(access));
        }
        tests.extend(number(rule.major)?.map(Test::Major));
        tests.extend(number(rule.minor)?.map(Test::Minor));
        let mut block = vec![op(MOV64_IMM, 0, 0, 0, i32::from(rule.allow)), op(EXIT, 0, 0, 0, 0)];
        for test in tests.iter().rev() {
            // Each test that fails jumps behind the block.
            let skip = i16::try_from(block.len()).unwrap_or(i16::MAX);
            let mut with_test = match test {
                Test::Type(kind) => vec![op(JUMP_NE_IMM, 2, 0, skip, *kind)],
                // Wanted bits the rule does not cover: the rule does not match.
                Test::Access(bits) => vec![
                    op(MOV32_REG, 6, 3, 0, 0),
                    op(AND32_IMM, 6, 0, 0, *bits),
                    op(JUMP_NE_REG, 6, 3, skip, 0),
                ],
                Test::Major(n) => vec![op(JUMP_NE_IMM, 4, 0, skip, *n)],
                Test::Minor(n) => vec![op(JUMP_NE_IMM, 5, 0, skip, *n)],
            };
            with_test.append(&mut block);
            block = with_test;
        }
        let is_final = tests.is_empty();
        code.append(&mut block);
        if is_final {
            // Nothing after a rule that matches everything is reached, and the verifier refuses dead code.
            return Ok(code);
        }
    }
    code.push(op(MOV64_IMM, 0, 0, 0, 0));
    code.push(op(EXIT, 0, 0, 0, 0));
    Ok(code)
}

enum Test {
    Type(i32),
    Access(i32),
    Major(i32),
    Minor(i32),
}

fn number(value: Option<i64>) -> Result<Option<i32>> {
    match value {
        None | Some(-1) => Ok(None),
        Some(n) => i32::try_from(n)
            .map(Some)
            .map_err(|_| Error::invalid(format!("device number {n} is out of range"))),
    }
}

/// `BPF_DEVCG_ACC_*`: mknod 1, read 2, write 4.
fn access_bits(access: &str) -> Result<i32> {
    if access.is_empty() {
        return Ok(7);
    }
    access.chars().try_fold(0, |bits, c| match c {
        'm' => Ok(bits | 1),
        'r' => Ok(bits | 2),
        'w' => Ok(bits | 4),
        other => Err(Error::invalid(format!("device access {other:?} is none of r, w and m"))),
    })
}

/// One `struct bpf_insn`: opcode, registers, jump offset, immediate.
fn op(code: u8, to: u8, from: u8, offset: i16, immediate: i32) -> u64 {
    let mut bytes = [0; 8];
    bytes[0] = code;
    bytes[1] = (from << 4) | to;
    bytes[2..4].copy_from_slice(&offset.to_le_bytes());
    bytes[4..8].copy_from_slice(&immediate.to_le_bytes());
    u64::from_le_bytes(bytes)
}
