//! Whom a system trusts that has several to say so: a person, an administrator, its maker.

use std::collections::BTreeMap;

/// What one of them says of a certificate as one that others are signed by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It is trusted.
    Trusted,
    /// It is not.
    Denied,
    /// Neither: whoever comes next may say.
    Unsaid,
}

/// Those (X.509, DER) that are trusted, where who comes first has the last word.
pub(crate) fn trusted(domains: impl IntoIterator<Item = Vec<(Vec<u8>, Verdict)>>) -> Vec<Vec<u8>> {
    let mut all: BTreeMap<Vec<u8>, Verdict> = BTreeMap::new();
    for (der, verdict) in domains.into_iter().flatten().filter(|(_, verdict)| *verdict != Verdict::Unsaid) {
        all.entry(der).or_insert(verdict);
    }
    all.into_iter().filter(|(_, verdict)| *verdict == Verdict::Trusted).map(|(der, _)| der).collect()
}

#[cfg(test)]
mod tests {
    use super::Verdict::{Denied, Trusted, Unsaid};
    use super::*;

    #[test]
    fn who_comes_first_has_the_last_word() {
        let check = |verdicts: [&[Verdict]; 2], expected: bool| {
            let of = |verdicts: &[Verdict]| verdicts.iter().map(|verdict| (vec![7], *verdict)).collect();
            let found = trusted(verdicts.map(of));
            assert_eq!(found.contains(&vec![7]), expected, "{verdicts:?}");
        };
        check([&[Trusted], &[]], true);
        check([&[], &[Trusted]], true);
        check([&[Denied], &[Trusted]], false);
        check([&[Trusted], &[Denied]], true);
        check([&[Unsaid], &[Trusted]], true);
        check([&[Unsaid], &[]], false);
        check([&[Trusted, Denied], &[]], true);
    }

    #[test]
    fn each_is_told_once() {
        let user = vec![(vec![1], Trusted), (vec![2], Trusted)];
        let administrator = vec![(vec![2], Trusted), (vec![3], Trusted), (vec![4], Denied)];
        assert_eq!(trusted([user, administrator]), [vec![1], vec![2], vec![3]]);
        assert!(trusted([]).is_empty());
    }
}
