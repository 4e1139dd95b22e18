// SPDX-License-Identifier: MIT OR Apache-2.0

package spaknock

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"sort"
	"strings"
	"time"
)

// Times after a knock to send it, and for another reply to contradict the first one, before a second knock (section 3).
var sends, linger = []time.Duration{0, 250e6, 750e6, 1750e6}, 100 * time.Millisecond

// Knock knocks at server, a host name or an address. Returns the reply to a success; nil if the request wants none. Takes
// at most the timeout (usually 3 s) after the name is resolved.
func Knock(key *Key, server string, request Request, timeout time.Duration) (reply *Reply, err error) {
	defer catch(&err, Network, server+": ")
	typed := strings.TrimSuffix(strings.ToLower(server), ".")
	id, host := key.Server, server
	if id == "" {
		id = typed
	} else if id == typed && key.Address != "" {
		host = key.Address
	}
	if !matches(forms["server"], id) {
		panic(&Error{Usage, "not a server id", nil})
	}
	keys, found := key.Derive(id), must(net.DefaultResolver.LookupNetIP(context.Background(), "ip", host))
	isNamed := func(ip netip.Addr) bool {
		return request.Policy != Exact || ip.Is4() && request.IPv4.IsValid() || request.IPv6.IsValid()
	}
	sort.SliceStable(found, func(i, j int) bool { return isNamed(found[i].Unmap()) && !isNamed(found[j].Unmap()) })
	for _, ip := range found {
		var conn net.Conn
		if conn, err = net.Dial("udp", netip.AddrPortFrom(ip.Unmap(), uint16(key.Port)).String()); err == nil {
			defer conn.Close()
			knock := request.claiming(own(conn))
			if request.Policy == Auto && request.NoReply && !isGlobal(own(conn)) && isGlobal(ip.Unmap()) {
				knock.Policy = Observed
			}
			datagram := must(keys.Seal(knock))
			if _, err = conn.Write(datagram); err == nil && request.NoReply {
				return nil, nil
			} else if err == nil {
				return keys.await(conn, request, datagram, timeout), nil
			}
		}
	}
	panic(fmt.Errorf("%s: nothing sent: %v", host, err))
}

// await resends and awaits the reply. With Auto, it knocks a second time if the server saw another address.
func (keys Keys) await(conn net.Conn, request Request, datagram []byte, timeout time.Duration) *Reply {
	seen, sent, data, turn := netip.Addr{}, [][]byte{datagram}, make([]byte, 125), 1
	begin, end := time.Now(), time.Now().Add(timeout)
	for now := begin; now.Before(end); now = time.Now() {
		isLingering := seen.IsValid() && len(sent) == 1
		if isLingering && now.Sub(begin) >= linger {
			sent, begin, turn, isLingering = append(sent, must(keys.Seal(request.claiming(seen)))), now, 0, false
		}
		if !isLingering && turn < len(sends) && now.Sub(begin) >= sends[turn] {
			turn++
			if _, err := conn.Write(sent[len(sent)-1]); err != nil {
				conn.Write(sent[len(sent)-1]) // the first error may be about an earlier datagram
			}
		}
		conn.SetReadDeadline(now.Add(20 * time.Millisecond))
		length, _ := conn.Read(data) // ICMP proves nothing: anyone can send it
		for number, knock := range sent {
			reply := keys.OpenReply(knock[8:20], data[:length])
			if reply != nil && reply.Status <= 1 {
				return reply
			} else if reply != nil && number == 0 && seen.IsValid() {
				if reply.Address.Addr() != seen {
					panic(&Error{Refused, request.Action + ": two replies name different addresses", reply})
				}
			} else if reply != nil {
				seen, begin = reply.Address.Addr(), now
				if request.Policy != Auto || number > 0 || reply.Status != 4 || seen == own(conn) || seen.IsUnspecified() || isGlobal(outgoing(conn, seen)) {
					panic(&Error{Refused, strings.TrimSpace(request.Action + " refused: " + Status[reply.Status] + " " + reply.Text), reply})
				}
			}
		}
	}
	panic(&Error{NoReply, fmt.Sprintf("%s: no reply within %v", request.Action, timeout), nil})
}

func (r Request) claiming(ip netip.Addr) Request {
	if r.Policy != Auto {
		return r
	} else if r.Policy = Exact; ip.Is4() {
		r.IPv4 = ip
	} else {
		r.IPv6 = ip
	}
	return r
}

// outgoing is the own outgoing address of the IP version of ip; the zero Addr without a route. Sends nothing.
func outgoing(conn net.Conn, ip netip.Addr) netip.Addr {
	if own(conn).Is4() == ip.Is4() {
		return own(conn)
	}
	conn, err := net.Dial("udp", netip.AddrPortFrom(ip, 9).String())
	if err != nil {
		return netip.Addr{}
	}
	defer conn.Close()
	return own(conn)
}

func own(conn net.Conn) netip.Addr {
	return netip.MustParseAddrPort(conn.LocalAddr().String()).Addr().Unmap().WithZone("")
}

func isGlobal(ip netip.Addr) bool {
	for _, prefix := range strings.Fields("0.0.0.0/8 100.64.0.0/10 255.255.255.255/32 224.0.0.0/4 ::/127") {
		if netip.MustParsePrefix(prefix).Contains(ip) {
			return false
		}
	}
	return ip.IsValid() && !ip.IsPrivate() && !ip.IsLoopback() && !ip.IsMulticast() && !ip.IsLinkLocalUnicast()
}
