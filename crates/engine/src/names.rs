//! Names for containers whose user gave none, and for what several engines on one computer must not share.

use std::path::Path;

const ADJECTIVES: [&str; 48] = [
    "amber", "bold", "brave", "breezy", "bright", "brisk", "calm", "clear", "clever", "coral", "cosy",
    "curious", "deep", "eager", "early", "fair", "fleet", "fresh", "gentle", "glad", "golden", "happy",
    "hardy", "jolly", "keen", "kind", "lively", "lucky", "mellow", "merry", "misty", "neat", "nimble",
    "patient", "plucky", "proud", "quick", "quiet", "ready", "salty", "serene", "silver", "steady", "sunny",
    "swift", "tidal", "warm", "wise",
];

const NOUNS: [&str; 48] = [
    "anchor", "atoll", "barge", "bay", "beacon", "bollard", "breeze", "brig", "buoy", "cape", "clipper",
    "compass", "cove", "current", "cutter", "delta", "dinghy", "dock", "dolphin", "ferry", "fjord", "gull",
    "harbor", "haven", "heron", "inlet", "island", "jetty", "kayak", "keel", "lagoon", "lantern", "marina",
    "mast", "osprey", "otter", "pelican", "pier", "port", "quay", "reef", "rudder", "sail", "schooner",
    "seal", "sound", "tern", "wharf",
];

/// A name nobody has, as far as `is_free` knows: two words, after some tries with a number.
pub(crate) fn generate(is_free: impl Fn(&str) -> bool) -> String {
    for attempt in 0_u32.. {
        let pick = |words: &[&'static str]| words[rand::random_range(0..words.len())];
        let mut name = format!("{}_{}", pick(&ADJECTIVES), pick(&NOUNS));
        if attempt > 5 {
            name.push_str(&rand::random_range(0..1_000_000_u32).to_string());
        }
        if is_free(&name) {
            return name;
        }
    }
    String::new()
}

/// What tells the engine of `root` from others: nothing for the computer's own, else ten hexadecimal digits.
pub(crate) fn of_place(root: &Path) -> Option<String> {
    if root == Path::new("/var/lib/cove") {
        return None;
    }
    let hash = root.as_os_str().as_encoded_bytes().iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        // FNV-1a, which is enough to tell a few paths apart.
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    });
    Some(format!("{:010x}", hash & 0xff_ffff_ffff))
}

/// Whether a user may give this name (Docker's rule).
pub(crate) fn is_valid(name: &str) -> bool {
    let mut bytes = name.bytes();
    bytes.next().is_some_and(|b| b.is_ascii_alphanumeric())
        && name.len() > 1
        && bytes.all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
}
