//! Closing commands that an earlier daemon has left unfinished.

use super::audit::with_reason;
use crate::state::{Leftover, UndoTask};
use spa_knock_core::auth::{AuditCause, AuditRecord, Explanation};

/// Logs closing commands that an earlier daemon left unfinished or damaged. Returns their audit records.
pub(super) fn report_interrupted(left: Vec<Leftover>) -> Vec<AuditRecord> {
    let mut records = Vec::new();
    for leftover in left {
        match leftover {
            Leftover::Begun(task) => {
                let UndoTask { argv, record, .. } = *task;
                let reason =
                    "the daemon exited while it started this CMD_CYCLE_CLOSE, which may not have run";
                log::error!(
                    "fwknop: {reason}: {argv:?}\nhint: check whether it has run; if not, run it by hand"
                );
                records.push(with_reason(record, Explanation::new(AuditCause::UndoUnknown, reason)));
            }
            Leftover::Damaged(path) => log::error!(
                "{}: damaged; a CMD_CYCLE_CLOSE may not run\nhint: close by hand what it would close; then remove the file",
                path.display()
            ),
        }
    }
    records
}
