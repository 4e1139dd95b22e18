// SPDX-License-Identifier: MIT OR Apache-2.0

package spaknock

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math/rand"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/chacha20poly1305"
)

const mutations = 10_000

type vector struct {
	ServerID string            `json:"server_id"`
	Root     *string           `json:"root"`
	Pair     string            `json:"pair"`
	Keys     map[string]string `json:"keys"`
	Knock    struct {
		Timestamp   int64   `json:"timestamp_ms"`
		Action      string  `json:"action"`
		Argument    string  `json:"argument"`
		Seconds     uint32  `json:"seconds"`
		OTP         uint32  `json:"otp"`
		Policy      string  `json:"policy"`
		IPv4        *string `json:"ipv4"`
		IPv6        *string `json:"ipv6"`
		ReplyWanted bool    `json:"reply_wanted"`
		Padding     byte    `json:"padding"`
		Nonce       string  `json:"nonce"`
		Datagram    string  `json:"datagram"`
	} `json:"knock"`
	Reply struct {
		Body     string `json:"body"`
		Datagram string `json:"datagram"`
	} `json:"reply"`
	Ports []struct {
		Seconds int64   `json:"unix_seconds"`
		Action  string  `json:"action"`
		Address *string `json:"address"`
		Low     int     `json:"low"`
		Ports   [8]int  `json:"ports"`
	} `json:"ports"`
}

func vectors(t *testing.T) (all []vector) {
	path := os.Getenv("SPA_KNOCK_VECTORS")
	if path == "" {
		path = "../../core/tests/vectors/protocol-v1.json"
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, &all); err != nil || len(all) < 24 {
		t.Fatal(err, len(all))
	}
	return all
}

func unhex(text string) []byte {
	data, err := hex.DecodeString(text)
	if err != nil {
		panic(err)
	}
	return data
}

func ip(text *string) netip.Addr {
	if text == nil {
		return netip.Addr{}
	}
	return netip.MustParseAddr(*text)
}

func keyText(secret []byte, server *string, lines ...string) string {
	kind := "kind: root"
	if server != nil {
		kind = "kind: pair\nserver: " + *server
	}
	all := append([]string{"# a comment", "spa-knock-key: 1", kind}, lines...)
	return strings.Join(append(all, "secret: "+base64.StdEncoding.EncodeToString(secret), ""), "\n")
}

func keysOf(t *testing.T, v vector) Keys {
	key, err := ParseKey(keyText(unhex(v.Pair), &v.ServerID))
	if err != nil {
		t.Fatal(err)
	}
	return key.Derive(v.ServerID)
}

func refused(t *testing.T, err error, code int) string {
	t.Helper()
	failure, is := err.(*Error)
	if !is || failure.Code != code {
		t.Fatalf("not refused with %d: %v", code, err)
	}
	if strings.Contains(failure.Message, "runtime error") {
		t.Fatal(failure.Message)
	}
	return failure.Message
}

func TestEveryKeyIsDerivedAsInTheVectors(t *testing.T) {
	for _, v := range vectors(t) {
		expected := Keys{}
		for label, key := range v.Keys {
			expected[label] = unhex(key)
		}
		if !reflect.DeepEqual(keysOf(t, v), expected) {
			t.Error(v.ServerID)
		}
		if v.Root != nil {
			root, err := ParseKey(keyText(unhex(*v.Root), nil))
			if err != nil || !reflect.DeepEqual(root.Derive(v.ServerID), expected) {
				t.Error(v.ServerID, err)
			}
		}
	}
}

func TestEveryKnockIsSealedAsInTheVectors(t *testing.T) {
	policies := map[string]int{"observed": Observed, "exact": Exact, "listed": Listed}
	for _, v := range vectors(t) {
		k := v.Knock
		request := Request{Action: k.Action, Argument: k.Argument, Seconds: k.Seconds, Policy: policies[k.Policy], IPv4: ip(k.IPv4), IPv6: ip(k.IPv6),
			NoReply: !k.ReplyWanted, Time: time.UnixMilli(k.Timestamp), random: append(unhex(k.Nonce), k.Padding)}
		if k.OTP != 0xFFFF_FFFF {
			request.OTP = fmt.Sprintf("%06d", k.OTP)
		}
		made, err := keysOf(t, v).Seal(request)
		if err != nil || hex.EncodeToString(made) != k.Datagram {
			t.Errorf("%v\n%x\n%s", err, made, k.Datagram)
		}
	}
}

func TestEveryReplyIsOpenedAsInTheVectorsAndNoChangedOne(t *testing.T) {
	for _, v := range vectors(t) {
		keys, nonce, body, datagram := keysOf(t, v), unhex(v.Knock.Nonce), unhex(v.Reply.Body), unhex(v.Reply.Datagram)
		big := binary.BigEndian
		address, _ := netip.AddrFromSlice(body[10:26])
		expected := Reply{int(body[1]), time.UnixMilli(int64(big.Uint64(body[2:]))), netip.AddrPortFrom(address.Unmap(), big.Uint16(body[26:])),
			big.Uint32(body[28:]), string(body[33 : 33+body[32]])}
		if reply := keys.OpenReply(nonce, datagram); reply == nil || *reply != expected {
			t.Error(reply, expected)
		}
		wrong := [][]byte{append(unhex(v.Reply.Datagram), 0), append(unhex(v.Reply.Datagram), datagram...)}
		for length := range datagram {
			wrong = append(wrong, datagram[:length])
		}
		for bit := 0; bit < 8*len(datagram); bit++ {
			flipped := unhex(v.Reply.Datagram)
			flipped[bit/8] ^= 1 << (bit % 8)
			wrong = append(wrong, flipped)
		}
		for _, data := range wrong {
			if keys.OpenReply(nonce, data) != nil {
				t.Fatalf("%x", data)
			}
		}
		if keys.OpenReply(make([]byte, 12), datagram) != nil {
			t.Error("the reply to another knock")
		}
		keys["reply"] = keys["seal"]
		if keys.OpenReply(nonce, datagram) != nil {
			t.Error("a wrong key")
		}
	}
}

func TestEveryPortSequenceIsAsInTheVectors(t *testing.T) {
	for _, v := range vectors(t) {
		for _, s := range v.Ports {
			if ports := keysOf(t, v).PortSequence(s.Action, ip(s.Address), time.Unix(s.Seconds, 999), s.Low); ports != s.Ports {
				t.Error(ports, s)
			}
		}
	}
}

func TestNoMutationOfAReplyIsAccepted(t *testing.T) {
	seed := time.Now().UnixNano()
	dice, all := rand.New(rand.NewSource(seed)), vectors(t)
	for count := 0; count < mutations; count++ {
		v := all[dice.Intn(len(all))]
		datagram := unhex(v.Reply.Datagram)
		changed := append([]byte{}, datagram...)
		for changes := dice.Intn(8); changes >= 0; changes-- {
			place := dice.Intn(len(changed))
			switch dice.Intn(3) {
			case 0:
				changed[place] = byte(dice.Intn(256))
			case 1:
				changed[place] ^= 1 << dice.Intn(8)
			case 2:
				changed = append(append([]byte{}, changed[place:]...), changed[:place]...)
			}
		}
		if !bytes.Equal(changed, datagram) && keysOf(t, v).OpenReply(unhex(v.Knock.Nonce), changed) != nil {
			t.Fatalf("seed %d: %x", seed, changed)
		}
	}
}

func TestAReplyOfAnotherVersionIsIgnoredAndItsTextIsCleaned(t *testing.T) {
	v := vectors(t)[0]
	keys, nonce := keysOf(t, v), unhex(v.Knock.Nonce)
	open := func(head string, rest ...byte) *Reply {
		body := make([]byte, 96)
		copy(body, head)
		copy(body[32:], rest)
		cipher, err := chacha20poly1305.New(mac(keys["reply"], nonce))
		if err != nil {
			t.Fatal(err)
		}
		return keys.OpenReply(nonce, append(append([]byte{}, nonce...), cipher.Seal(nil, nonce, body, nonce)...))
	}
	if text := open("\x01\x00", 6, 'a', 27, 0, 0xC2, 0x85, 'b').Text; text != "ab" {
		t.Errorf("%q", text)
	}
	if text := open("\x01\x00", append([]byte{63}, bytes.Repeat([]byte("x"), 63)...)...).Text; text != strings.Repeat("x", 63) {
		t.Errorf("%q", text)
	}
	if text := open("\x01\x00", 1, 0xFF).Text; text != "\uFFFD" {
		t.Errorf("%q", text)
	}
	for _, head := range []string{"\x00\x00", "\x02\x00", "\x01\x0a", "\x01\xff"} {
		if open(head) != nil {
			t.Errorf("%q", head)
		}
	}
	if open("\x01\x00", 64) != nil {
		t.Error("a text that is too long")
	}
}

func TestAnInvalidRequestIsRefusedAndNoncesAndLengthsVary(t *testing.T) {
	keys := keysOf(t, vectors(t)[0])
	four, six := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")
	for _, r := range []Request{{Action: ""}, {Action: strings.Repeat("x", 33)}, {Action: "Open"}, {Action: "a\n"}, {Action: "a", Argument: "\n"},
		{Action: "a", Argument: strings.Repeat("x", 81)}, {Action: "a", Argument: "ä"}, {Action: "a", OTP: "x"}, {Action: "a", OTP: "-1"},
		{Action: "a", OTP: "4294967296"}, {Action: "a", IPv4: six}, {Action: "a", IPv6: four}, {Action: "a", Policy: 4}, {Action: "a", Policy: -1},
		{Action: "a", IPv6: netip.MustParseAddr("::ffff:192.0.2.1")}} {
		if r.Policy == 0 {
			r.Policy = Observed
		}
		_, err := keys.Seal(r)
		refused(t, err, Usage)
	}
	_, err := keys.Seal(Request{Action: "a"})
	refused(t, err, Usage)
	lengths, nonces := map[int]bool{}, map[string]bool{}
	for count := 0; count < 2_000; count++ {
		made, err := keys.Seal(Request{Action: "a", Policy: Observed})
		if err != nil || len(made) < 228 || len(made) > 291 {
			t.Fatal(err, len(made))
		}
		lengths[len(made)], nonces[string(made[8:20])] = true, true
	}
	if len(lengths) != 64 || len(nonces) != 2_000 {
		t.Error(len(lengths), len(nonces))
	}
}

func TestAMalformedKeyFileIsRefusedWithoutItsText(t *testing.T) {
	secret, server := make([]byte, 32), "a.b"
	for index := range secret {
		secret[index] = byte(index)
	}
	key, err := ParseKey(strings.ReplaceAll(keyText(secret, &server, "client: laptop", "address: 203.0.113.1", "  port :  4000"), "\n", "\r\n"))
	if err != nil || !reflect.DeepEqual(*key, Key{"laptop", "a.b", "203.0.113.1", 4000, secret}) {
		t.Fatal(err)
	}
	for _, form := range []string{"%v", "%+v", "%#v", "%s"} {
		if text := fmt.Sprintf(form+form, key, *key); text != "[secret][secret]" {
			t.Error(text)
		}
	}
	encoded, a, empty, long, upper := base64.StdEncoding.EncodeToString(secret), "a", "", strings.Repeat("x", 65), "A"
	pair, root, replace := keyText(secret, &a), keyText(secret, nil), strings.ReplaceAll
	wrong := []string{"", encoded, pair + pair, replace(pair, "key: 1", "key: 2"), keyText(secret[1:], &a), keyText(append(secret, 0), &a),
		replace(pair, "8=", "9="), replace(pair, encoded, encoded[:43]), replace(pair, "pair", "both"), replace(pair, "pair", "root"),
		replace(root, "root", "pair"), keyText(secret, &empty), keyText(secret, &long), keyText(secret, &upper), "no colon\n" + pair,
		replace(pair, "kind: pair\n", ""), replace(pair, "spa-knock-key: 1\n", ""), ":\n" + pair, ": x\n" + pair}
	for _, line := range []string{"port: 0", "port: 65536", "port: -1", "port: +1", "port: ٣", "client: ../x", "client: -x", "address: -oProxy",
		"address: a b", "client:", "kind: pair", "kind", "password: x", "password:", "port: 1\nport: 2"} {
		wrong = append(wrong, pair+line)
	}
	for _, text := range wrong {
		_, err := ParseKey(text)
		if err == nil {
			t.Fatalf("accepted: %q", text)
		}
		if message := refused(t, err, BadKey); strings.Contains(message, encoded[:8]) {
			t.Error(message)
		}
	}
	example, err := os.ReadFile("../../keys.example")
	if err != nil {
		t.Fatal(err)
	}
	_, err = ParseKey(string(example))
	if message := refused(t, err, BadKey); !strings.Contains(message, "example key") {
		t.Error(message)
	}
}

func tokenOf(body string) string {
	data := append([]byte{0, byte(len(body) + 10)}, body...)
	sum := sha256.Sum256(data)
	return "spa-knock-" + base64.RawURLEncoding.EncodeToString(append(data, sum[:8]...))
}

func TestEveryChangeOfATokenIsRefused(t *testing.T) {
	secret := strings.Repeat("\x07", 32)
	token := tokenOf("\x01" + secret + "\x0f\xa0" + "\x06laptop\x13bastion.example.org\x0b203.0.113.1")
	key, err := ParseToken(" " + token[:40] + "\r\n  " + token[40:] + "\n")
	if err != nil || !reflect.DeepEqual(*key, Key{"laptop", "bastion.example.org", "203.0.113.1", 4000, []byte(secret)}) {
		t.Fatal(err)
	}
	for place := range token {
		before, here, after := token[:place], token[place:place+1], token[place+1:]
		texts := []string{before + after, before + here + here + after}
		for _, other := range strings.Split("AZaz09-_+/=.BQgw", "") {
			if other != here {
				texts = append(texts, before+other+after)
			}
		}
		for _, text := range texts {
			_, err := ParseToken(text)
			refused(t, err, BadKey)
		}
	}
	_, err = ParseToken("spa-knock-" + strings.Repeat("A", 1_000_000))
	refused(t, err, BadKey)
	small := "\x01" + secret + "\x00\x00"
	if key, err := ParseToken(tokenOf(small + "\x00\x01a\x00")); err != nil || key.Server != "a" || key.Port != 62201 {
		t.Error(err)
	}
	for _, body := range []string{"", "\x02" + secret + "\x00\x00\x00\x01a\x00", small, small + "\x00\x01a\x00\x00", small + "\x00\x01a", small + "\x00\x01a\x01",
		small + "\x00\x01a\x01 ", small + "\x00\x00\x00", small + "\x00\x02a\x00", small + "\x00\x01A\x00", small + "\x01/\x01a\x00", small[:20],
		small + "\x09a\nport: 5\x01a\x00", "\x01example only: everybody has it!!\x00\x00\x00\x01a\x00"} {
		_, err := ParseToken(tokenOf(body))
		refused(t, err, BadKey)
	}
}

func TestAKnockWithoutAReplyIsOneDatagram(t *testing.T) {
	server, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	a := "a"
	_, port, _ := net.SplitHostPort(server.LocalAddr().String())
	key, err := ParseKey(keyText(make([]byte, 32), &a, "port: "+port))
	if err != nil {
		t.Fatal(err)
	}
	if reply, err := Knock(key, "127.0.0.1", Request{Action: "a", NoReply: true}, time.Second); reply != nil || err != nil {
		t.Fatal(reply, err)
	}
	length, _, err := server.ReadFrom(make([]byte, 512))
	if err != nil || length < 228 || length > 291 {
		t.Error(err, length)
	}
}

func TestAKeyFileThatOthersCanAccessOrReplaceIsRefused(t *testing.T) {
	folder, a := filepath.Join(t.TempDir(), "keys"), "a"
	path := filepath.Join(folder, "a.key")
	if os.Mkdir(folder, 0o700) != nil || os.WriteFile(path, []byte(keyText(make([]byte, 32), &a)), 0o600) != nil {
		t.Fatal(folder)
	}
	for _, c := range []struct {
		mode, folderMode os.FileMode
		reason           string
	}{{0o600, 0o700, ""}, {0o640, 0o700, "mode 0640"}, {0o604, 0o700, "mode 0604"}, {0o600, 0o770, "replace it"}, {0o600, 0o707, "replace it"},
		{0o600, 0o777 | os.ModeSticky, ""}} {
		if os.Chmod(path, c.mode) != nil || os.Chmod(folder, c.folderMode) != nil {
			t.Fatal(path)
		}
		key, err := LoadKey(path)
		if c.reason == "" && (err != nil || key.Server != "a") {
			t.Error(err)
		} else if c.reason != "" && !strings.Contains(refused(t, err, BadKey), c.reason) {
			t.Error(err)
		}
	}
	for name, text := range map[string]string{"none": "", "latin": "# \xff\n" + keyText(make([]byte, 32), &a), "long": strings.Repeat("#", 65536)} {
		if name != "none" && os.WriteFile(filepath.Join(folder, name), []byte(text), 0o600) != nil {
			t.Fatal(name)
		}
		_, err := LoadKey(filepath.Join(folder, name))
		refused(t, err, BadKey)
	}
	_, err := LoadKey(folder)
	refused(t, err, BadKey)
}
