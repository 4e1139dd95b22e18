//! Link, VLAN, IPv4/IPv6 and UDP headers → a segment. Total: any bytes are a segment or none.
