//! The status of the fleet, as one line of text.

use super::text::Tone;
use crate::console::{Color, counted, own_command};
use crate::control::status::{DaemonStatus, FleetEndpoint, FleetMemberState, FleetState};

/// Clocks that are apart by less than this are not worth a word, in milliseconds.
const CLOCK_MS: u64 = 1_000;
/// A store that has not answered for this long is silent, in milliseconds.
const SILENCE_MS: u64 = 4_000;

/// The line; none without a fleet.
pub(crate) fn line(status: &DaemonStatus, color: Color) -> Option<String> {
    let fleet = status.fleet.as_ref()?;
    // The endpoints are asked every 10 s: what they were then means nothing while the store is silent.
    let is_silent = fleet.silent_ms.is_none_or(|silent| silent > SILENCE_MS);
    let answers = |endpoint: &&FleetEndpoint| endpoint.problem.is_none() && !is_silent;
    let answering = fleet.endpoints.iter().filter(answers).count();
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
    let problems: String =
        fleet.problem.iter().chain(&fleet.warnings).map(|problem| format!("; {problem}")).collect();
    let problems = if problems.is_empty() { problems } else { color.paint(Tone::Bad, problems) };
    Some(format!(
        "{}: {}{}, store {answering}/{}, policy {}, claims {} won {} lost {} unknown{}{left_out}{problems}",
        fleet.name,
        counted(fleet.members.len(), "member"),
        remarks(fleet, color),
        fleet.endpoints.len(),
        fleet.revision,
        of("won"),
        of("lost"),
        of("unknown"),
        median.unwrap_or_default(),
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
