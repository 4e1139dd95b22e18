//! The SSH key that signs knocks: whether the agent has it.

use super::{Diagnosis, ok};
use crate::client::failure::ClientError;
use crate::client::knock::request::KnockRequest;

impl Diagnosis {
    /// The SSH key that signs the knocks, and the agent that has it. Returns whether knocks are possible.
    pub(super) fn ssh_key(&mut self, request: &KnockRequest) -> Result<bool, ClientError> {
        let Some(signing) = &request.signing else { return Ok(true) };
        match signing.open() {
            Ok(signer) => {
                let (name, fingerprint) = (signer.key().kind().short_name(), signing.fingerprint());
                ok("ssh key", &format!("{name} {fingerprint}, in {}", signing.agent_name())).map(|()| true)
            }
            Err(failure) => self.failed("ssh key", &failure).map(|()| false),
        }
    }
}
