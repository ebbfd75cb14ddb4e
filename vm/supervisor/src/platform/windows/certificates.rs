//! Certificates that this Windows trusts.

use std::io;

use schannel::cert_context::{CertContext, ValidUses};
use schannel::cert_store::CertStore;

use crate::trust::Bundle;

/// For servers (`id-kp-serverAuth`, RFC 5280 section 4.2.1.12).
const SERVERS: &str = "1.3.6.1.5.5.7.3.1";

/// Adds the roots that this user, an administrator or the domain trusts for servers. Those of Microsoft's programme, which
/// Windows fetches as they are needed, are left out: the guest brings along those that all systems trust.
pub(crate) fn add_certificates(bundle: &mut Bundle) {
    match trusted() {
        Ok(certificates) => certificates.into_iter().for_each(|certificate| bundle.add(certificate)),
        Err(error) => tracing::warn!(%error, "failed to read which certificates are trusted"),
    }
}

/// In the order in which the store has them.
fn trusted() -> io::Result<Vec<Vec<u8>>> {
    // A user's store shows the computer's as well. `AuthRoot` is the programme's part of it.
    let [roots, programme, refused] = ["ROOT", "AuthRoot", "Disallowed"].map(CertStore::open_current_user);
    Ok(own(&roots?, &[programme?, refused?]))
}

/// What is in `roots`, is for servers, and is in none of the others.
fn own(roots: &CertStore, others: &[CertStore]) -> Vec<Vec<u8>> {
    let bytes = |certificate: CertContext| certificate.to_der().to_vec();
    let others: Vec<Vec<u8>> = others.iter().flat_map(CertStore::certs).map(bytes).collect();
    let own = roots.certs().filter(is_for_servers).map(bytes);
    own.filter(|certificate| !others.contains(certificate)).collect()
}

/// One whose uses can't be read is for none.
fn is_for_servers(certificate: &CertContext) -> bool {
    match certificate.valid_uses() {
        Ok(ValidUses::All) => true,
        Ok(ValidUses::Oids(uses)) => uses.iter().any(|used| used == SERVERS),
        Err(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;
    use schannel::cert_store::Memory;

    use super::*;

    /// Made by `openssl req -x509 -newkey ed25519`: for everything, for servers, for mail.
    const ALL: &str = "MIIBMjCB5aADAgECAhQPkl4ZfaqghuWEM87WrolqNCNpQTAFBgMrZXAwDjEMMAoGA1UEAwwDYWxsMCAXDTI2MTEzMDA5MjY1OFoY\
        DzIxMjYxMTA2MDkyNjU4WjAOMQwwCgYDVQQDDANhbGwwKjAFBgMrZXADIQBnD9eicbgUkqQe93dZIp+as9HL82eKvCTF26F4vl4i\
        26NTMFEwHQYDVR0OBBYEFI4cUohDhJePZQHb34pgrufl5oSiMB8GA1UdIwQYMBaAFI4cUohDhJePZQHb34pgrufl5oSiMA8GA1Ud\
        EwEB/wQFMAMBAf8wBQYDK2VwA0EAob1n1GGkf2EU6sCZ3wA1OfBL/tXkUIQ18rEJQy3JDzZX2hxWB0vyaPQo+2ucgNRHynD81gxG\
        /InoOetRpuMLAg==";
    const SERVERS_ONLY: &str = "MIIBUDCCAQKgAwIBAgIUEQCq6lKgRIl/ISV2Ue4VvErnJAYwBQYDK2VwMBIxEDAOBgNVBAMMB3NlcnZlcnMwIBcNMjYxMTMwMDky\
        NjU4WhgPMjEyNjExMDYwOTI2NThaMBIxEDAOBgNVBAMMB3NlcnZlcnMwKjAFBgMrZXADIQCrTYCM+hWL7zujS+BreQZZ7daU8C34\
        GV3KSTmgmVmPx6NoMGYwHQYDVR0OBBYEFJgQ4cUGrZdCbhlV3cLBaHB2K6KbMB8GA1UdIwQYMBaAFJgQ4cUGrZdCbhlV3cLBaHB2\
        K6KbMA8GA1UdEwEB/wQFMAMBAf8wEwYDVR0lBAwwCgYIKwYBBQUHAwEwBQYDK2VwA0EAvuCf/glMkuY9D9tnZX/pA8DPnZQwWKgf\
        ILYMIhaEnhrmFGXuGOyAtkKETLCoLUWc9ilfcWj9itf8I+CWTc6yDw==";
    const MAIL: &str = "MIIBSTCB/KADAgECAhQtrZbAvLePfVLItAUW/jBleNCpFzAFBgMrZXAwDzENMAsGA1UEAwwEbWFpbDAgFw0yNjExMzAwOTI2NTha\
        GA8yMTI2MTEwNjA5MjY1OFowDzENMAsGA1UEAwwEbWFpbDAqMAUGAytlcAMhAM4pCpSaShrscJbE2xNpY/xVv6liz4zUC3Ne153/\
        pMSwo2gwZjAdBgNVHQ4EFgQUxOjTjOgPNENiITqACPIePJLkMF0wHwYDVR0jBBgwFoAUxOjTjOgPNENiITqACPIePJLkMF0wDwYD\
        VR0TAQH/BAUwAwEB/zATBgNVHSUEDDAKBggrBgEFBQcDBDAFBgMrZXADQQDIMVd8LyKFUlpwA7iEPzt1OZ4eBc9FdH2r1kNautod\
        C/EBk5GLTRNyeRrM7DcrKXnjmvA+OeaJWZG5VAIg/mYM";

    fn der(text: &str) -> Vec<u8> {
        STANDARD.decode(text).unwrap()
    }

    fn store(of: &[&str]) -> CertStore {
        let mut store = Memory::new().unwrap();
        for text in of {
            store.add_encoded_certificate(&der(text)).unwrap();
        }
        store.into_store()
    }

    #[test]
    fn what_is_for_servers_and_nobody_elses_is_taken_over() {
        let found = |programme: &[&str], refused: &[&str]| {
            let mut found = own(&store(&[ALL, SERVERS_ONLY, MAIL]), &[store(programme), store(refused)]);
            found.sort();
            found
        };
        let mut both = vec![der(ALL), der(SERVERS_ONLY)];
        both.sort();
        assert_eq!(found(&[], &[]), both);
        assert_eq!(found(&[ALL], &[MAIL]), [der(SERVERS_ONLY)]);
        assert_eq!(found(&[ALL], &[SERVERS_ONLY]), Vec::<Vec<u8>>::new());
        // This computer's own stores can be read, whatever is in them.
        trusted().unwrap();
    }
}
