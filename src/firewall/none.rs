//! No firewall: for servers where knocks only run commands.

use super::{Backend, Closed, FirewallError, Gate};
use crate::gate::Grant;
use crate::knock::ClientName;

/// Changes nothing and opens nothing.
pub struct NoFirewall;

impl Backend for NoFirewall {
    fn load(&mut self, _: &Gate) -> Result<(), FirewallError> {
        Ok(())
    }

    fn grant(&mut self, _: &[Grant]) -> Result<(), FirewallError> {
        Err(FirewallError::Other("backend \"none\" opens no ports".to_owned()))
    }

    fn close(&mut self, _: &dyn Fn(&ClientName) -> bool) -> Result<Vec<Closed>, FirewallError> {
        Ok(Vec::new())
    }
}
