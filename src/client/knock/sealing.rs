//! Creates datagrams: encrypts a knock, after an SSH key has signed it if the request has one.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::Ordering;
use std::sync::{Mutex, PoisonError};

use super::plan::{Claim, Learning};
use super::{Knocker, diagnosis, named};
use crate::client::agent::Signing;
use crate::client::failure::{ClientError, ExitCause};
use crate::os::{clock, terminal};
use spa_knock_core::knock::Reply;
use spa_knock_core::wire::{Datagram, SealError, UnsignedKnock};

/// The answers of the user: for the local address, and the one that a server reports.
static CONSENT: Mutex<BTreeMap<(IpAddr, String), Consent>> = Mutex::new(BTreeMap::new());

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Consent {
    Given,
    Denied,
}

impl Knocker<'_> {
    /// Creates a datagram for one of the server's addresses.
    ///
    /// # Errors
    /// If the SSH key does not sign it.
    pub(in crate::client) fn seal(&self, server: SocketAddr, claim: Claim) -> Result<Datagram, ClientError> {
        let signing = self.request.signing.as_deref();
        let datagram = match signing {
            Some(signing) => self.seal_signed(server, claim, signing)?,
            None => {
                self.report_knock(server, claim);
                Datagram::seal(&self.request.knock(claim), &self.keys).map_err(failed)?
            }
        };
        Ok(datagram)
    }

    /// Creates the datagram of a second knock, which claims the address in `reply`.
    ///
    /// # Errors
    /// If the user does not confirm the address, or the SSH key does not sign the knock.
    pub(in crate::client) fn seal_again(
        &self,
        server: SocketAddr,
        own: IpAddr,
        claim: Claim,
        reply: &Reply,
    ) -> Result<Datagram, ClientError> {
        if self.request.learning == Learning::WithConsent && self.ask(own, claim) == Consent::Denied {
            return Err(diagnosis::refused(self.request, reply, &self.by(server)));
        }
        self.seal(server, claim)
    }

    /// Whether a person had to touch a device for the latest signature, or to confirm it.
    pub(in crate::client) fn needs_person(&self) -> bool {
        self.request.signing.as_deref().is_some_and(Signing::needs_person)
    }

    fn seal_signed(
        &self,
        server: SocketAddr,
        claim: Claim,
        signing: &Signing,
    ) -> Result<Datagram, ClientError> {
        let signer = signing.open()?;
        // Others may have granted while this thread waited for the agent.
        if self.wanted.as_ref().is_some_and(|wanted| !wanted.load(Ordering::Relaxed)) {
            return Err(ClientError::new(ExitCause::Network, "not needed any more"));
        }
        self.report_knock(server, claim);
        let knock = self.request.knock(claim);
        let start = (clock::steady(), knock.timestamp);
        let unsigned = UnsignedKnock::new(&knock, &self.keys, signer.key()).map_err(failed)?;
        let signature = signer.sign(unsigned.message(), start, self.report)?;
        unsigned.seal(&signature, &self.keys).map_err(|error| match error {
            SealError::Signature(_) => signer.invalid(),
            other => failed(other),
        })
    }

    /// Asks whether a knock for this address may be signed; once for each address.
    fn ask(&self, own: IpAddr, claim: Claim) -> Consent {
        let mut answers = CONSENT.lock().unwrap_or_else(PoisonError::into_inner);
        let address = named(claim).join(", ");
        *answers.entry((own, address.clone())).or_insert_with(|| {
            let question = format!(
                "{}: the server sees you as {address}; sign a knock for this address?",
                self.request.server
            );
            match terminal::confirm(&question) {
                Ok(true) => Consent::Given,
                Ok(false) | Err(_) => Consent::Denied,
            }
        })
    }

    fn report_knock(&self, server: SocketAddr, claim: Claim) {
        self.report.detail(|| format!("{}: knocking at {} ({})", self.request.server, server.ip(), claim));
    }
}

fn failed(error: SealError) -> ClientError {
    ClientError::new(ExitCause::Network, error.to_string())
}
