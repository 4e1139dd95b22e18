//! No firewall: for servers where knocks only run commands.

use std::os::fd::BorrowedFd;

use super::{ActiveGrant, Backend, FirewallError, GateSpec};
use spa_knock_core::auth::Grant;

/// Changes nothing and opens nothing.
pub struct NoFirewall;

impl Backend for NoFirewall {
    fn load(&mut self, _: &GateSpec) -> Result<(), FirewallError> {
        Ok(())
    }

    fn grant(&mut self, _: &[Grant]) -> Result<(), FirewallError> {
        Err(FirewallError::Other("backend \"none\" cannot open ports".to_owned()))
    }

    fn close(&mut self, _: &dyn Fn(&ActiveGrant) -> bool) -> Result<Vec<ActiveGrant>, FirewallError> {
        Ok(Vec::new())
    }

    fn live(&self) -> Vec<ActiveGrant> {
        Vec::new()
    }

    fn heartbeat(&mut self) -> Result<(), FirewallError> {
        Ok(())
    }

    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    fn modified_externally(&mut self) -> bool {
        false
    }

    fn remove(&mut self) -> Result<(), FirewallError> {
        Ok(())
    }
}
