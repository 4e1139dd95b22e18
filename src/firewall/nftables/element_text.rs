//! Writes an active grant as an element for `nft -f`.

use std::net::IpAddr;

use super::element::{self, Element, ElementEntry};
use super::plane::Area;
use super::ruleset::{TABLE, milliseconds, range};
use crate::firewall::grant_table::GrantHolder;
use crate::firewall::text::Text;
use spa_knock_core::auth::{Access, AccessTarget, SourceTranslation, TransitPort};
use spa_knock_core::knock::{PortRange, Steady};

impl Text {
    /// Adds a grant; `None` if the element does not have the form that we write.
    pub(super) fn grant(
        &mut self,
        element: &Element,
        holder: &GrantHolder<Steady>,
        now: Steady,
    ) -> Option<()> {
        let set = std::str::from_utf8(element.set.strip_suffix(b"\0")?).ok()?;
        let (link, from, ports, to) = match element::entry(element)? {
            ElementEntry::Interval(area, rectangle) => {
                let link = match area {
                    Area::Linked(link) => format!("{link} . "),
                    Area::Spans | Area::Nets => String::new(),
                };
                (link, span(rectangle.first, rectangle.last), rectangle.ports, String::new())
            }
            ElementEntry::Access(Access { from, target: AccessTarget::Divert(to), .. }) => {
                self.keyed(set, &range(from), &format!(" : {to}"), holder, now);
                return Some(());
            }
            ElementEntry::Access(Access { from, target: AccessTarget::Transit(route), .. }) => {
                let key = match route.to {
                    Some(TransitPort { host, port }) => {
                        format!("{} . {host} . {}", range(from), dotted(port.into()))
                    }
                    None => range(from),
                };
                let value = match route.source {
                    SourceTranslation::Kept | SourceTranslation::Masquerade => String::new(),
                    SourceTranslation::Address(address) => format!(" : {address}"),
                };
                self.keyed(set, &key, &value, holder, now);
                return Some(());
            }
            ElementEntry::Access(Access { from, target, .. }) => {
                let (ports, to) = match target {
                    AccessTarget::Divert(_) | AccessTarget::Transit(_) => return None,
                    AccessTarget::Ports(ports) => (ports, String::new()),
                    // It may have been used already, so it is not added again.
                    AccessTarget::Once(_) => return None,
                    AccessTarget::Forward { port, to } if to.ip().is_unspecified() => {
                        (port.into(), format!(" : {}", to.port()))
                    }
                    AccessTarget::Forward { port, to } => {
                        (port.into(), format!(" : {} . {}", to.ip(), to.port()))
                    }
                };
                (String::new(), range(from), ports, to)
            }
        };
        self.keyed(set, &format!("{link}{from} . {}", dotted(ports)), &to, holder, now);
        Some(())
    }

    fn keyed(&mut self, set: &str, key: &str, value: &str, holder: &GrantHolder<Steady>, now: Steady) {
        let timeout = milliseconds(holder.end.since(now));
        self.line(format_args!(
            "add element {TABLE} {set} {{ {key} timeout {timeout} comment \"{}\"{value} }}",
            holder.comment()
        ));
    }
}

fn dotted(ports: PortRange) -> String {
    format!("{} . {}", ports.protocol().as_str(), ports.numbers('-'))
}

pub(super) fn span(first: IpAddr, last: IpAddr) -> String {
    if first == last { first.to_string() } else { format!("{first}-{last}") }
}
