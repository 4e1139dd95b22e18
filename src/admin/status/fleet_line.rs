//! The status of the fleet, as one line of text.

use super::text::Tone;
use crate::console::{Color, counted, own_command};
use crate::control::status::{DaemonStatus, FleetMemberState, FleetState};

/// Clocks that are apart by less than this are not worth a word, in milliseconds.
const CLOCK_MS: u64 = 1_000;

/// The line; none without a fleet.
pub(crate) fn line(status: &DaemonStatus, color: Color) -> Option<String> {
    let fleet = status.fleet.as_ref()?;
    let answering = fleet.endpoints.iter().filter(|endpoint| endpoint.problem.is_none()).count();
    let of =
        |result: &str| fleet.claims.iter().find(|counted| counted.result == result).map_or(0, |c| c.count);
    let median =
        fleet.times.median_us.map(|micros| format!(", p50 {} ms", tenths(micros.saturating_add(50) / 100)));
    let left_out = match fleet.left_out.len() {
        0 => String::new(),
        number => {
            let remark = format!("; {} left out, see {}", counted(number, "client"), own_command("check"));
            color.paint(Tone::Bad, remark)
        }
    };
    let problem = fleet.problem.as_ref().map(|problem| color.paint(Tone::Bad, format!("; {problem}")));
    Some(format!(
        "{}: {}{}, store {answering}/{}, policy {}, claims {} won {} lost {} unknown{}{left_out}{}",
        fleet.name,
        counted(fleet.members.len(), "member"),
        remarks(fleet, color),
        fleet.endpoints.len(),
        fleet.revision,
        of("won"),
        of("lost"),
        of("unknown"),
        median.unwrap_or_default(),
        problem.unwrap_or_default(),
    ))
}

/// What is not as it should be with members, in parentheses.
fn remarks(fleet: &FleetState, color: Color) -> String {
    let remark = |member: &FleetMemberState| {
        let clock = (member.offset_ms.unsigned_abs() >= CLOCK_MS).then(|| {
            let direction = if member.offset_ms < 0 { "behind" } else { "ahead" };
            format!("{} is {} s {direction}", member.name, tenths(member.offset_ms.unsigned_abs() / 100))
        });
        let policy = (!member.same_policy).then(|| format!("{} has another policy", member.name));
        clock.into_iter().chain(policy)
    };
    let remarks: Vec<String> = fleet.members.iter().flat_map(remark).collect();
    if remarks.is_empty() {
        String::new()
    } else {
        color.paint(Tone::Bad, format!(" ({})", remarks.join(", ")))
    }
}

/// A number of tenths, with one digit after the point.
fn tenths(number: u64) -> String {
    format!("{}.{}", number / 10, number % 10)
}
