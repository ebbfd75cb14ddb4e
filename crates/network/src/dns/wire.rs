//! DNS messages, as far as a resolver of names on the spot needs to read and write them (RFC 1035, RFC 6891).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// What a message is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Kind(pub(crate) u16);

impl Kind {
    pub(crate) const A: Self = Self(1);
    pub(crate) const AAAA: Self = Self(28);
    pub(crate) const PTR: Self = Self(12);
}

/// How an answer turned out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Code {
    Fine = 0,
    Malformed = 1,
    Failed = 2,
    NotImplemented = 4,
}

const HEADER: usize = 12;
const IN: u16 = 1;
const OPT: u16 = 41;
/// What a message over UDP may have without saying more.
const SMALL: usize = 512;
/// What we take and send over UDP: fits any path (the DNS flag day of 2020).
const LARGE: u16 = 1232;
/// Seconds: containers come and go.
const LIVES: u32 = 5;

/// One question of a client, and what is needed to answer it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Query {
    pub(crate) id: u16,
    /// Lower case, without the last dot.
    pub(crate) name: String,
    pub(crate) kind: Kind,
    is_recursive: bool,
    /// The question as it came, name included.
    question: Vec<u8>,
    /// The most that the client takes over UDP, where it said so.
    size: Option<usize>,
}

/// Why bytes are no question for us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// Not to be answered: no header, or an answer itself.
    Silence,
    /// To be answered with an error.
    Answer(u16, Code),
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

/// Reads a client's message.
pub(crate) fn read_query(bytes: &[u8]) -> Result<Query, Refusal> {
    let (Some(id), Some(flags), true) = (u16_at(bytes, 0), u16_at(bytes, 2), bytes.len() >= HEADER) else {
        return Err(Refusal::Silence);
    };
    if flags & 0x8000 != 0 {
        return Err(Refusal::Silence);
    }
    if flags & 0x7800 != 0 {
        return Err(Refusal::Answer(id, Code::NotImplemented));
    }
    let counts: Vec<u16> = [4, 6, 8, 10].iter().filter_map(|at| u16_at(bytes, *at)).collect();
    let malformed = Refusal::Answer(id, Code::Malformed);
    let [1, answers, authorities, additions] = counts.as_slice() else { return Err(malformed) };
    let (name, at) = read_name(bytes, HEADER).ok_or(malformed)?;
    let kind = Kind(u16_at(bytes, at).ok_or(malformed)?);
    let class = u16_at(bytes, at + 2).ok_or(malformed)?;
    if class != IN {
        return Err(Refusal::Answer(id, Code::NotImplemented));
    }
    let question = bytes.get(HEADER..at + 4).ok_or(malformed)?.to_vec();
    let size =
        if *answers == 0 && *authorities == 0 && *additions > 0 { edns_size(bytes, at + 4) } else { None };
    Ok(Query { id, name, kind, is_recursive: flags & 0x0100 != 0, question, size })
}

/// The client's limit, where the first addition is the one that tells it.
fn edns_size(bytes: &[u8], at: usize) -> Option<usize> {
    let is_edns = *bytes.get(at)? == 0 && u16_at(bytes, at + 1)? == OPT;
    is_edns.then(|| u16_at(bytes, at + 3).map(usize::from)).flatten()
}

/// A name without compression, which questions have no use for; where it ends.
fn read_name(bytes: &[u8], mut at: usize) -> Option<(String, usize)> {
    let mut name = String::new();
    loop {
        let length = usize::from(*bytes.get(at)?);
        at += 1;
        if length == 0 {
            return Some((name, at));
        }
        // 64 and more are pointers and what was never defined.
        if length > 63 || name.len() + length > 254 {
            return None;
        }
        let label = bytes.get(at..at + length)?;
        at += length;
        if !name.is_empty() {
            name.push('.');
        }
        for byte in label {
            // What is no letter, digit or sign of a host is no name of ours; a dot inside would be another.
            let is_plain = byte.is_ascii_graphic() && *byte != b'.';
            name.push(if is_plain { char::from(byte.to_ascii_lowercase()) } else { '\u{fffd}' });
        }
    }
}

/// What is found behind a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Found {
    Addresses(Vec<IpAddr>),
    Name(String),
}

impl Query {
    /// The address that a reverse look-up is for.
    pub(crate) fn reverse(&self) -> Option<IpAddr> {
        if self.kind != Kind::PTR {
            return None;
        }
        if let Some(name) = self.name.strip_suffix(".in-addr.arpa") {
            let parts: Vec<u8> =
                name.split('.').rev().map(|part| part.parse().ok()).collect::<Option<_>>()?;
            return <[u8; 4]>::try_from(parts).ok().map(|octets| Ipv4Addr::from(octets).into());
        }
        let name = self.name.strip_suffix(".ip6.arpa")?;
        let digits: Vec<&str> = name.split('.').collect();
        if digits.len() != 32 || digits.iter().any(|digit| digit.len() != 1) {
            return None;
        }
        let text: String = digits.into_iter().rev().collect();
        u128::from_str_radix(&text, 16).ok().map(|number| Ipv6Addr::from(number).into())
    }

    /// An answer. Over UDP it is cut to what the client takes, and says so.
    pub(crate) fn answer(&self, found: &Found, is_udp: bool) -> Vec<u8> {
        let records: Vec<Vec<u8>> = match found {
            Found::Addresses(list) => {
                list.iter().filter_map(|address| self.address_record(*address)).collect()
            }
            Found::Name(name) => vec![record(Kind::PTR, &written_name(name))],
        };
        let edns = if self.size.is_some() { 11 } else { 0 };
        let limit = if is_udp {
            self.size.map_or(SMALL, |size| size.clamp(SMALL, usize::from(LARGE)))
        } else {
            0xffff
        };
        let mut room = limit - HEADER - self.question.len() - edns;
        let mut fitting = Vec::new();
        let mut count = 0_u16;
        for one in &records {
            if one.len() > room {
                break;
            }
            room -= one.len();
            fitting.extend(one);
            count += 1;
        }
        let is_cut = usize::from(count) < records.len();
        self.message(Code::Fine, count, &fitting, is_cut)
    }

    /// An answer without anything.
    pub(crate) fn fail(&self, code: Code) -> Vec<u8> {
        self.message(code, 0, &[], false)
    }

    fn address_record(&self, address: IpAddr) -> Option<Vec<u8>> {
        match (address, self.kind) {
            (IpAddr::V4(address), Kind::A) => Some(record(Kind::A, &address.octets())),
            (IpAddr::V6(address), Kind::AAAA) => Some(record(Kind::AAAA, &address.octets())),
            _ => None,
        }
    }

    fn message(&self, code: Code, count: u16, records: &[u8], is_cut: bool) -> Vec<u8> {
        let flags = 0x8080
            | if self.is_recursive { 0x0100 } else { 0 }
            | if is_cut { 0x0200 } else { 0 }
            | code as u16;
        let additions = u16::from(self.size.is_some());
        let mut bytes = Vec::with_capacity(HEADER + self.question.len() + records.len() + 11);
        for field in [self.id, flags, 1, count, 0, additions] {
            bytes.extend(field.to_be_bytes());
        }
        bytes.extend(&self.question);
        bytes.extend(records);
        if additions > 0 {
            // The root's name, then the kind, our own limit, and nothing more.
            bytes.push(0);
            bytes.extend(OPT.to_be_bytes());
            bytes.extend(LARGE.to_be_bytes());
            bytes.extend([0; 6]);
        }
        bytes
    }

    /// Whether bytes answer this question under another number.
    pub(crate) fn is_answered_by(&self, id: u16, bytes: &[u8]) -> bool {
        let is_answer = u16_at(bytes, 0) == Some(id)
            && u16_at(bytes, 2).is_some_and(|flags| flags & 0x8000 != 0)
            && u16_at(bytes, 4) == Some(1);
        // Some servers change the case of letters.
        is_answer
            && bytes
                .get(HEADER..HEADER + self.question.len())
                .is_some_and(|question| question.eq_ignore_ascii_case(&self.question))
    }
}

/// Whether a server gave up on a question.
pub(crate) fn has_failed(answer: &[u8]) -> bool {
    const REFUSED: u8 = 5;
    answer
        .get(3)
        .is_none_or(|flags| matches!(flags & 0xf, code if code == Code::Failed as u8 || code == REFUSED))
}

/// A message that says only that something is wrong with the question.
pub(crate) fn refusal(id: u16, code: Code) -> Vec<u8> {
    [id, 0x8080 | code as u16, 0, 0, 0, 0].iter().flat_map(|field| field.to_be_bytes()).collect()
}

/// A record of the name that was asked for.
fn record(kind: Kind, data: &[u8]) -> Vec<u8> {
    // A pointer to the question's name, which is behind the header.
    const NAME: u16 = 0xc00c;
    let mut bytes = Vec::with_capacity(12 + data.len());
    for field in [NAME, kind.0, IN] {
        bytes.extend(field.to_be_bytes());
    }
    bytes.extend(LIVES.to_be_bytes());
    bytes.extend(u16::try_from(data.len()).unwrap_or(0).to_be_bytes());
    bytes.extend(data);
    bytes
}

fn written_name(name: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    for label in name.split('.').filter(|label| !label.is_empty()) {
        let label = label.as_bytes().get(..63).unwrap_or(label.as_bytes());
        bytes.push(u8::try_from(label.len()).unwrap_or(0));
        bytes.extend(label);
    }
    bytes.push(0);
    bytes
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A client's message.
    pub(crate) fn asked(name: &str, kind: Kind, edns: Option<u16>) -> Vec<u8> {
        let mut bytes: Vec<u8> = [7, 0x0100, 1, 0, 0, u16::from(edns.is_some())]
            .iter()
            .flat_map(|field: &u16| field.to_be_bytes())
            .collect();
        bytes.extend(written_name(name));
        bytes.extend(kind.0.to_be_bytes());
        bytes.extend(IN.to_be_bytes());
        if let Some(size) = edns {
            bytes.push(0);
            bytes.extend(OPT.to_be_bytes());
            bytes.extend(size.to_be_bytes());
            bytes.extend([0; 6]);
        }
        bytes
    }

    #[test]
    fn a_question_is_read_and_answered() {
        let query = read_query(&asked("Web.Example", Kind::A, None)).unwrap();
        assert_eq!((query.name.as_str(), query.kind), ("web.example", Kind::A));
        let found = Found::Addresses(vec!["10.0.0.2".parse().unwrap(), "fd00::2".parse().unwrap()]);
        let answer = query.answer(&found, true);
        assert_eq!(u16_at(&answer, 6), Some(1), "only the version that was asked for");
        assert!(answer.ends_with(&[10, 0, 0, 2]));
        assert!(query.is_answered_by(7, &answer) && !query.is_answered_by(8, &answer));
        assert!(!has_failed(&answer) && has_failed(&query.fail(Code::Failed)));
    }

    #[test]
    fn what_does_not_fit_is_cut_and_says_so() {
        let many = Found::Addresses((0..200).map(|n| IpAddr::from([10, 0, 0, n])).collect());
        for (edns, is_udp, fits, is_cut) in [
            (None, true, 512, true),
            (Some(1232), true, 1232, true),
            (Some(9000), true, 1232, true),
            (None, false, 65535, false),
        ] {
            let answer = read_query(&asked("web", Kind::A, edns)).unwrap().answer(&many, is_udp);
            assert!(answer.len() <= fits && answer.len() > fits.min(3000) - 40, "{edns:?} {}", answer.len());
            assert_eq!(u16_at(&answer, 2).unwrap() & 0x0200 != 0, is_cut, "{edns:?}");
            assert_eq!(u16_at(&answer, 10), Some(u16::from(edns.is_some())));
        }
    }

    #[test]
    fn reverse_names_are_addresses() {
        let reverse = |name: &str| read_query(&asked(name, Kind::PTR, None)).unwrap().reverse();
        assert_eq!(reverse("2.0.18.172.in-addr.arpa"), Some("172.18.0.2".parse().unwrap()));
        let six = format!("2.{}0.0.d.f.ip6.arpa", "0.".repeat(27));
        assert_eq!(reverse(&six), Some("fd00::2".parse().unwrap()));
        for bad in ["in-addr.arpa", "1.2.3.in-addr.arpa", "999.1.1.1.in-addr.arpa", "2.ip6.arpa"] {
            assert_eq!(reverse(bad), None, "{bad}");
        }
    }

    #[test]
    fn what_is_no_question_is_refused() {
        assert_eq!(read_query(&[]), Err(Refusal::Silence));
        let mut answer = asked("a", Kind::A, None);
        answer[2] |= 0x80;
        assert_eq!(read_query(&answer), Err(Refusal::Silence));
        let mut two = asked("a", Kind::A, None);
        two[5] = 2;
        assert_eq!(read_query(&two), Err(Refusal::Answer(7, Code::Malformed)));
        let mut looping = asked("a", Kind::A, None);
        looping[12] = 0xc0;
        assert_eq!(read_query(&looping), Err(Refusal::Answer(7, Code::Malformed)));
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_question_or_refused(bytes: Vec<u8>) {
            if let Ok(query) = read_query(&bytes) {
                let _ = query.reverse();
                prop_assert!(query.answer(&Found::Addresses(vec![[1, 2, 3, 4].into()]), true).len() <= 1232);
            }
        }

        #[test]
        fn a_changed_question_is_read_without_a_panic(at in 0_usize..60, byte: u8, cut in 0_usize..60) {
            let mut bytes = asked("some.longer.name.example", Kind::AAAA, Some(4096));
            if let Some(place) = bytes.get_mut(at) { *place = byte; }
            bytes.truncate(bytes.len().saturating_sub(cut));
            if let Ok(query) = read_query(&bytes) {
                let _ = query.answer(&Found::Name("a.b".into()), true);
                let _ = query.is_answered_by(1, &bytes);
            }
        }
    }
}
