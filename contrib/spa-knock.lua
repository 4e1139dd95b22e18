-- Wireshark's view of spa-knock datagrams: the fields that are not encrypted (docs/internals/protocol.md,
-- sections 3 and 4).
-- Copy into Wireshark's folder of personal Lua plugins (Help, About, Folders), or: tshark -X lua_script:spa-knock.lua

local KNOCK_MIN, KNOCK_MAX = 228, 291
local REPLY = 124
local NONCE, HINT, TAG, AEAD_TAG = 12, 8, 32, 16

local spa = Proto("spa_knock", "spa-knock")
local fields = {
    hint = ProtoField.bytes("spa_knock.hint", "Hint (names the key for a minute)"),
    nonce = ProtoField.bytes("spa_knock.nonce", "Nonce (the knock's id)"),
    sealed = ProtoField.bytes("spa_knock.sealed", "Sealed body"),
    aead_tag = ProtoField.bytes("spa_knock.aead_tag", "Tag of the seal"),
    tag = ProtoField.bytes("spa_knock.tag", "HMAC-SHA256 of all before it"),
}
spa.fields = { fields.hint, fields.nonce, fields.sealed, fields.aead_tag, fields.tag }
spa.prefs.port = Pref.uint("Knock port", 62201, "UDP port of the daemon")

-- Adds fields of these lengths, one after the other.
local function add_all(tree, buffer, parts)
    local offset = 0
    for _, part in ipairs(parts) do
        tree:add(part[1], buffer(offset, part[2]))
        offset = offset + part[2]
    end
end

function spa.dissector(buffer, packet, root)
    local length = buffer:len()
    local to_server = packet.dst_port == spa.prefs.port
    if to_server and length >= KNOCK_MIN and length <= KNOCK_MAX then
        packet.cols.protocol = "spa-knock"
        packet.cols.info = "Knock, " .. length .. " bytes (or whatever looks like one)"
        local sealed = length - HINT - NONCE - AEAD_TAG - TAG
        add_all(root:add(spa, buffer(), "spa-knock: knock"), buffer, {
            { fields.hint, HINT }, { fields.nonce, NONCE }, { fields.sealed, sealed },
            { fields.aead_tag, AEAD_TAG }, { fields.tag, TAG },
        })
        return length
    elseif not to_server and length == REPLY then
        packet.cols.protocol = "spa-knock"
        packet.cols.info = "Reply"
        add_all(root:add(spa, buffer(), "spa-knock: reply"), buffer, {
            { fields.nonce, NONCE }, { fields.sealed, REPLY - NONCE - AEAD_TAG }, { fields.aead_tag, AEAD_TAG },
        })
        return length
    end
    return 0
end

local ports = DissectorTable.get("udp.port")
local registered = spa.prefs.port
ports:add(registered, spa)

function spa.prefs_changed()
    ports:remove(registered, spa)
    registered = spa.prefs.port
    ports:add(registered, spa)
end
