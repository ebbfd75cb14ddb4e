//! Certificates that people made this Mac trust: by Keychain Access, a tool or a profile.

use security_framework::trust_settings::{Domain, TrustSettings, TrustSettingsForCertificate};

use crate::trust::Bundle;
use crate::trust::domains::{Verdict, trusted};

/// Adds those that the user or an administrator trusts for TLS. Apple's own are left out: the guest brings along those
/// that all systems trust.
pub(crate) fn add_certificates(bundle: &mut Bundle) {
    // What a user set overrides what an administrator did.
    for certificate in trusted([Domain::User, Domain::Admin].map(of)) {
        bundle.add(certificate);
    }
}

fn of(domain: Domain) -> Vec<(Vec<u8>, Verdict)> {
    let settings = TrustSettings::new(domain);
    let found = match settings.iter() {
        Ok(found) => found,
        Err(error) => {
            tracing::warn!(%error, ?domain, "failed to read which certificates are trusted");
            return Vec::new();
        }
    };
    found
        .map(|certificate| {
            let verdict = match settings.tls_trust_settings_for_certificate(&certificate) {
                // Without a word about TLS it is trusted for all, says Apple, and so do other clients of this crate.
                Ok(
                    None
                    | Some(TrustSettingsForCertificate::TrustRoot | TrustSettingsForCertificate::TrustAsRoot),
                ) => Verdict::Trusted,
                Ok(Some(TrustSettingsForCertificate::Deny)) => Verdict::Denied,
                Ok(Some(TrustSettingsForCertificate::Unspecified | TrustSettingsForCertificate::Invalid))
                | Err(_) => Verdict::Unsaid,
            };
            (certificate.to_der(), verdict)
        })
        .collect()
}
