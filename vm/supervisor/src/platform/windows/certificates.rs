//! Certificates that people and administrators made Windows trust, read by a program of its own: a store may be large, and
//! its provider another's, which nothing that a machine waits for is to hang on.

use std::io::{self, Read, Write};
use std::process::Stdio;
use std::sync::mpsc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use schannel::cert_context::ValidUses;
use schannel::cert_store::CertStore;

use crate::trust::{self, Bundle};

/// The verb of `cove-machine` that prints them.
const VERB: &str = "certificates";
/// How long reading may take.
const DEADLINE: Duration = Duration::from_secs(5);
/// `id-kp-serverAuth` (RFC 5280, section 4.2.1.12).
const SERVERS: &str = "1.3.6.1.5.5.7.3.1";

/// Adds those that the user or an administrator trusts for TLS. Those that Windows brings along are left out: the guest has
/// its own.
pub(crate) fn add_certificates(bundle: &mut Bundle) {
    match ask() {
        Ok(text) => bundle.add_text(&text),
        Err(error) => tracing::warn!("failed to read which certificates Windows trusts: {error:#}"),
    }
}

/// Has the program print them.
fn ask() -> Result<String> {
    let mut command = stdx::process::command(std::env::current_exe()?);
    command.arg(VERB).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn()?;
    let stdout = child.stdout.take().context("its output")?;
    let (sender, printed) = mpsc::channel();
    std::thread::spawn(move || {
        let mut text = String::new();
        // In PEM, and with names, they take no more than twice what is kept of them.
        let outcome = stdout.take(2 * trust::LIMIT as u64).read_to_string(&mut text).map(|_| text);
        let _ = sender.send(outcome);
    });
    let printed = printed.recv_timeout(DEADLINE);
    if printed.is_err() {
        child.kill()?;
    }
    let status = child.wait()?;
    let text = printed.with_context(|| format!("no answer within {} s", DEADLINE.as_secs()))??;
    ensure!(status.success(), "it ended with {status}");
    Ok(text)
}

/// Prints them: what [`VERB`] does.
pub(crate) fn print() -> Result<()> {
    let open = |store: &str| {
        CertStore::open_current_user(store).with_context(|| format!("failed to open the store {store:?}"))
    };
    let mut bundle = Bundle::new(trust::LIMIT);
    // What Microsoft's programme brings, and what is trusted by nobody, whoever says otherwise.
    for der in trusted(&open("ROOT")?, &[open("AuthRoot")?, open("Disallowed")?]) {
        bundle.add(der);
    }
    io::stdout().write_all(bundle.into_text().as_bytes()).context("failed to print")
}

/// What may vouch for servers (X.509, DER), and is in none of the others.
fn trusted(root: &CertStore, others: &[CertStore]) -> Vec<Vec<u8>> {
    let is_elsewhere =
        |der: &[u8]| others.iter().any(|store| store.certs().any(|other| other.to_der() == der));
    let vouches = |uses: io::Result<ValidUses>| match uses {
        Ok(ValidUses::All) => true,
        Ok(ValidUses::Oids(uses)) => uses.iter().any(|oid| oid == SERVERS),
        Err(_) => false,
    };
    let all = root.certs().filter(|certificate| vouches(certificate.valid_uses()));
    all.map(|certificate| certificate.to_der().to_vec()).filter(|der| !is_elsewhere(der)).collect()
}

#[cfg(test)]
mod tests {
    use schannel::cert_store::{CertAdd, Memory};

    use super::*;

    fn store(certificates: &[schannel::cert_context::CertContext]) -> CertStore {
        let mut store = Memory::new().unwrap().into_store();
        for certificate in certificates {
            store.add_cert(certificate, CertAdd::Always).unwrap();
        }
        store
    }

    #[test]
    fn what_windows_brings_along_or_refuses_is_left_out() {
        let all: Vec<_> = CertStore::open_current_user("ROOT").unwrap().certs().take(3).collect();
        let [own, brought, refused] = all.as_slice() else {
            eprintln!("left out: this computer trusts fewer than three certificates");
            return;
        };
        let (others, root) = ([store(&[brought.clone()]), store(&[refused.clone()])], store(&all));
        assert_eq!(trusted(&root, &others), [own.to_der()]);
        assert_eq!(trusted(&root, &[]).len(), 3);
    }
}
