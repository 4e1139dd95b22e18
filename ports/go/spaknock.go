// SPDX-License-Identifier: MIT OR Apache-2.0

// Package spaknock is a client for spa-knock, protocol version 1 (docs/internals/protocol.md; "section" refers to it).
// Every error is an *Error, and none contains a byte of a key.
package spaknock

import (
	"bytes"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unicode/utf8"

	"golang.org/x/crypto/chacha20poly1305"
)

// Error.Code, and the exit code of a program: the server refused; the request is not valid; no reply in time; no address or
// route; the key is not valid.
const Refused, Usage, NoReply, Network, BadKey = 1, 2, 3, 4, 5

// Address policies (section 3). Auto chooses one of the others. On the wire, Observed is 0.
const Auto, Observed, Exact, Listed = 0, 1, 2, 3

// Status has the meanings of Reply.Status (section 4).
var Status = []string{"granted", "done", "unknown action", "not allowed", "address refused",
	"one-time password missing or wrong", "limit reached or key expired", "action failed", "argument refused", "not understood"}

var control = regexp.MustCompile(`\p{Cc}`)
var forms = map[string]string{"spa-knock-key": "1", "kind": "pair|root", "client": "[A-Za-z0-9_][A-Za-z0-9._-]{0,31}",
	"server": "[a-z0-9._:-]{1,64}", "address": "[A-Za-z0-9._:%][A-Za-z0-9._:%-]{0,252}", "port": "[1-9][0-9]{0,4}",
	"secret": "[A-Za-z0-9+/]{42}[AEIMQUYcgkosw048]="}

// Error is why nothing was opened. Reply is the refusal, if there is one.
type Error struct {
	Code    int
	Message string
	Reply   *Reply
}

func (e *Error) Error() string { return e.Message }

// Request is what to knock for. Seconds is 0 for the action's own time. OTP is a one-time password, or empty. Exact and
// Listed need IPv4 or IPv6. The zero Time is now.
type Request struct {
	Action, Argument string
	Seconds          uint32
	OTP              string
	Policy           int
	IPv4, IPv6       netip.Addr
	NoReply          bool
	Time             time.Time
	random           []byte // the nonce, and in another byte the padding; only for tests
}

// Reply is the server's reply (section 4): Status is an index of the variable Status, the knock came from Address, the
// grant lasts Seconds, and Text is the server's remark.
type Reply struct {
	Status  int
	Time    time.Time
	Address netip.AddrPort
	Seconds uint32
	Text    string
}

// Key is the content of a key file. A root key, for any server, has no Server.
type Key struct {
	Client, Server, Address string
	Port                    int
	secret                  []byte
}

// Format keeps the secret out of logs.
func (Key) Format(state fmt.State, _ rune) { io.WriteString(state, "[secret]") }

// Keys are the seven keys of a client at a server, by label. The first 8 bytes of "id" are the fingerprint.
type Keys map[string][]byte

// ParseKey parses the text of a key file (section 2).
func ParseKey(text string) (key *Key, err error) {
	defer catch(&err, BadKey, "")
	fields := map[string]string{}
	for number, line := range strings.Split(text, "\n") {
		name, value, found := strings.Cut(strings.TrimSpace(line), ":")
		name, value = strings.TrimSpace(name), strings.TrimSpace(value)
		if (name+value != "" || found) && !strings.HasPrefix(name, "#") {
			check(found && fields[name] == "" && forms[name] != "", "line %d: not 'name: value', or not a new name", number+1)
			check(matches(forms[name], value), "line %d: not a valid %s", number+1, name)
			fields[name] = value
		}
	}
	if fields["port"] == "" {
		fields["port"] = "62201"
	}
	port, secret := must(strconv.ParseUint(fields["port"], 10, 16)), must(base64.StdEncoding.DecodeString(fields["secret"]))
	check(fields["spa-knock-key"] != "" && fields["kind"] != "" && fields["secret"] != "", "spa-knock-key, kind or secret is missing")
	check((fields["kind"] == "pair") == (fields["server"] != ""), "a pair key has a server, and a root key has none")
	check(string(secret) != "example only: everybody has it!!", "this is the example key, which is public")
	return &Key{fields["client"], fields["server"], fields["address"], int(port), secret}, nil
}

// ParseToken parses a token: "spa-knock-" and, in base64url, length (2 bytes), version (1), secret (32), port (2), client,
// server, address (each a length byte and a text), and 8 bytes of SHA-256 of all these.
func ParseToken(token string) (key *Key, err error) {
	defer catch(&err, BadKey, "token: ")
	coded, encoding := strings.Join(strings.Fields(token), ""), base64.RawURLEncoding
	data, _ := encoding.DecodeString(strings.TrimPrefix(coded, "spa-knock-"))
	check(len(data) >= 48 && coded == "spa-knock-"+encoding.EncodeToString(data), "some characters are missing, added or changed")
	body, length, sum := data[:len(data)-8], binary.BigEndian.Uint16(data), sha256.Sum256(data[:len(data)-8])
	check(int(length) == len(data) && bytes.HasSuffix(data, sum[:8]), "some characters are missing, added or changed")
	text := fmt.Sprintf("spa-knock-key: %d\nkind: pair\nsecret: %s", body[2], base64.StdEncoding.EncodeToString(body[3:35]))
	if port := binary.BigEndian.Uint16(body[35:]); port != 0 {
		text += fmt.Sprintf("\nport: %d", port)
	}
	rest := body[37:]
	for _, name := range []string{"client", "server", "address"} {
		check(len(rest) > 0 && len(rest) > int(rest[0]), "%s: cut short", name)
		if value := string(rest[1 : 1+rest[0]]); value != "" {
			check(matches(forms[name], value), "not a valid %s", name)
			text += "\n" + name + ": " + value
		}
		rest = rest[1+rest[0]:]
	}
	check(len(rest) == 0, "too long")
	return ParseKey(text)
}

// LoadKey reads a key file. On POSIX systems, others must neither have access to it nor be able to replace it.
func LoadKey(path string) (key *Key, err error) {
	defer catch(&err, BadKey, "key file "+path+": ")
	real := must(filepath.EvalSymlinks(path))
	file := must(os.OpenFile(real, os.O_RDONLY|syscall.O_NONBLOCK, 0))
	defer file.Close()
	mine, folder := must(file.Stat()), must(os.Stat(filepath.Dir(real)))
	check(mine.Mode().IsRegular() && mine.Size() < 65536, "not a regular file, or too long")
	if os.Geteuid() >= 0 { // not on Windows
		check(mine.Mode()&0o077 == 0, "mode %04o allows others to access it", mine.Mode().Perm())
		check(folder.Mode()&0o022 == 0 || folder.Mode()&os.ModeSticky != 0, "others can replace it in its directory")
	}
	text := must(io.ReadAll(file))
	check(utf8.Valid(text), "not UTF-8 text")
	return must(ParseKey(string(text))), nil
}

// Derive derives the keys for a server id (section 2).
func (key *Key) Derive(serverID string) Keys {
	pair, keys := key.secret, Keys{}
	if key.Server == "" {
		pair = hkdf("spa-knock/1 pair", pair, serverID)
	}
	for _, label := range []string{"hint", "sign", "selector", "seal", "proof", "reply", "id"} {
		keys[label] = hkdf("spa-knock/1", pair, label+"\x00"+serverID)
	}
	return keys
}

// Seal makes a knock datagram of 228 to 291 bytes, its nonce in bytes 8 to 19 (section 3). The policy must not be Auto.
func (keys Keys) Seal(r Request) (datagram []byte, err error) {
	defer catch(&err, Usage, "")
	check(matches("[a-z0-9_-]{1,32}", r.Action) && matches("[ -~]{0,80}", r.Argument), "action or argument: not valid")
	check(r.Policy >= Observed && r.Policy <= Listed && !r.IPv4.Is6() && !r.IPv6.Is4() && !r.IPv6.Is4In6(), "policy or address: not valid")
	otp, flags, random := uint64(0xFFFF_FFFF), byte(1), r.random
	if r.OTP != "" {
		otp = must(strconv.ParseUint(r.OTP, 10, 32))
	}
	if r.NoReply {
		flags = 0
	}
	if r.Time.IsZero() {
		r.Time = time.Now()
	}
	if random == nil {
		random = must(io.ReadAll(io.LimitReader(rand.Reader, 13)))
	}
	now, nonce, body := uint64(r.Time.UnixMilli()), random[:12], make([]byte, 160+random[12]&63)
	copy(body, bytes.Join([][]byte{{1, flags}, number(now), number(uint64(r.Seconds))[4:], number(otp)[4:], {byte(r.Policy - Observed)}}, nil))
	copy(body[19:], r.IPv4.AsSlice())
	copy(body[23:], r.IPv6.AsSlice())
	copy(body[39:], fmt.Sprintf("%c%s%c%s", len(r.Action), r.Action, len(r.Argument), r.Argument))
	hint := mac(keys["hint"], number(now/60_000))[:8]
	cipher := must(chacha20poly1305.New(mac(keys["seal"], nonce)))
	datagram = bytes.Join([][]byte{hint, nonce, cipher.Seal(nil, nonce, body, hint)}, nil)
	return append(datagram, mac(keys["sign"], datagram)...), nil
}

// OpenReply decrypts the reply to the knock with this nonce (section 4); nil if data is not that.
func (keys Keys) OpenReply(nonce, data []byte) *Reply {
	if len(data) != 124 {
		return nil
	}
	body, err := must(chacha20poly1305.New(mac(keys["reply"], data[:12]))).Open(nil, data[:12], data[12:], nonce)
	if err != nil || body[0] != 1 || int(body[1]) >= len(Status) || body[32] > 63 {
		return nil
	}
	address, big := netip.AddrFrom16(*(*[16]byte)(body[10:26])), binary.BigEndian
	text := control.ReplaceAllString(strings.ToValidUTF8(string(body[33:33+body[32]]), "\uFFFD"), "")
	return &Reply{int(body[1]), time.UnixMilli(int64(big.Uint64(body[2:]))), netip.AddrPortFrom(address.Unmap(), big.Uint16(body[26:])),
		big.Uint32(body[28:]), text}
}

// PortSequence returns the eight ports of a port sequence (section 7) in the 8192 ports from low (1 to 57344) on. The
// address is the client's own; the zero Addr means Observed. Sends nothing.
func (keys Keys) PortSequence(action string, address netip.Addr, at time.Time, low int) (ports [8]int) {
	step, own := number(uint64(at.Unix()/30)), [16]byte{}
	if address.IsValid() {
		own = address.As16()
	}
	macs := append(mac(keys["selector"], step)[:4], mac(keys["proof"], step, own[:], []byte(action))...)
	for place := range ports {
		ports[place] = low + 1024*place + int(binary.BigEndian.Uint16(macs[2*place:]))%1024
	}
	return ports
}

func number(value uint64) []byte { return binary.BigEndian.AppendUint64(nil, value) }

func mac(key []byte, message ...[]byte) []byte {
	hash := hmac.New(sha256.New, key)
	hash.Write(bytes.Join(message, nil))
	return hash.Sum(nil)
}

func hkdf(salt string, secret []byte, info string) []byte {
	return mac(mac([]byte(salt), secret), []byte(info+"\x01"))
} // RFC 5869

func matches(form, value string) bool {
	return regexp.MustCompile("^(?:" + form + ")$").MatchString(value)
}

func check(is bool, reason string, values ...any) {
	if !is {
		panic(fmt.Errorf(reason, values...))
	}
}

func must[T any](value T, err error) T {
	if err != nil {
		panic(err)
	}
	return value
}

// catch turns a panic of check, must and this package into an error.
func catch(err *error, code int, prefix string) {
	switch failure := recover().(type) {
	case *Error:
		*err = &Error{failure.Code, prefix + failure.Message, failure.Reply}
	case error:
		*err = &Error{code, prefix + failure.Error(), nil}
	}
}
