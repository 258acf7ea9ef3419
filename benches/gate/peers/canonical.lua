-- Canonical text of a JSON object, read strictly: what CPython prints for json.dumps(value, sort_keys=True,
-- separators=(",", ":")). Not by way of a decoder: LuaJIT's numbers do not keep apart 1 and 1.0, nor its tables {} and
-- [].

local ffi = require "ffi"

local byte, char, find, format, gsub = string.byte, string.char, string.find, string.format, string.gsub
local match, rep, sub = string.match, string.rep, string.sub
local concat, sort, floor = table.concat, table.sort, math.floor

local DEPTH = 64
local DIGITS = 4300
local WORDS = { [34] = '\\"', [92] = "\\\\", [8] = "\\b", [12] = "\\f", [10] = "\\n", [13] = "\\r", [9] = "\\t" }
local ESCAPES = { [34] = 34, [92] = 92, [47] = 47, [98] = 8, [102] = 12, [110] = 10, [114] = 13, [116] = 9 }

local text
local value

local function refuse()
    error("not one JSON object that can be read in one way only", 0)
end

local function blank(at)
    local c = byte(text, at)
    while c == 32 or c == 10 or c == 13 or c == 9 do
        at = at + 1
        c = byte(text, at)
    end
    return at
end

local function utf16_unit(at)
    local digits = sub(text, at, at + 3)
    if not find(digits, "^%x%x%x%x$") then refuse() end
    return tonumber(digits, 16)
end

-- The code point of what follows a backslash.
local function escaped(at)
    local c = byte(text, at)
    if c ~= 117 then return ESCAPES[c] or refuse(), at + 1 end
    local unit = utf16_unit(at + 1)
    if unit < 0xd800 or unit > 0xdfff then return unit, at + 5 end
    if unit > 0xdbff or sub(text, at + 5, at + 6) ~= "\\u" then refuse() end
    local low = utf16_unit(at + 7)
    if low < 0xdc00 or low > 0xdfff then refuse() end
    return 0x10000 + (unit - 0xd800) * 0x400 + low - 0xdc00, at + 11
end

-- The code point of a character outside ASCII.
local function utf8(at)
    local first = byte(text, at)
    local length = first >= 0xf0 and 4 or first >= 0xe0 and 3 or 2
    local code = first - (length == 4 and 0xf0 or length == 3 and 0xe0 or 0xc0)
    for follower = at + 1, at + length - 1 do
        local c = byte(text, follower)
        if not c or c < 0x80 or c > 0xbf then refuse() end
        code = code * 64 + c - 0x80
    end
    local least = length == 4 and 0x10000 or length == 3 and 0x800 or 0x80
    if first < 0xc0 or code < least or code > 0x10ffff or code >= 0xd800 and code <= 0xdfff then refuse() end
    return code, at + length
end

local function spell(code)
    if WORDS[code] then return WORDS[code] end
    if code >= 32 and code < 127 then return char(code) end
    if code < 0x10000 then return format("\\u%04x", code) end
    code = code - 0x10000
    return format("\\u%04x\\u%04x", 0xd800 + floor(code / 0x400), 0xdc00 + code % 0x400)
end

local function encode(code)
    local function follower(unit)
        return 0x80 + floor(code / unit) % 64
    end
    if code < 0x80 then return char(code) end
    if code < 0x800 then return char(0xc0 + floor(code / 64), follower(1)) end
    if code < 0x10000 then return char(0xe0 + floor(code / 4096), follower(64), follower(1)) end
    return char(0xf0 + floor(code / 262144), follower(4096), follower(64), follower(1))
end

-- A string from its first character on: its canonical text, what follows it, and itself as UTF-8, which sorts as code
-- points do.
local function string_from(at)
    local from = at
    local c = byte(text, at)
    while c and c >= 32 and c < 127 and c ~= 34 and c ~= 92 do
        at = at + 1
        c = byte(text, at)
    end
    if c == 34 then return sub(text, from - 1, at), at + 1, sub(text, from, at - 1) end
    local spelt, plain = {}, {}
    at = from
    while true do
        c = byte(text, at)
        if not c or c < 32 then refuse() end
        if c == 34 then break end
        local code
        if c == 92 then
            code, at = escaped(at + 1)
        elseif c < 0x80 then
            code, at = c, at + 1
        else
            code, at = utf8(at)
        end
        spelt[#spelt + 1] = spell(code)
        plain[#plain + 1] = encode(code)
    end
    return '"' .. concat(spelt) .. '"', at + 1, concat(plain)
end

local function digits(at)
    local from = at
    local c = byte(text, at)
    while c and c >= 48 and c <= 57 do
        at = at + 1
        c = byte(text, at)
    end
    if at == from then refuse() end
    return at
end

ffi.cdef "int snprintf(char *out, size_t size, const char *format, ...);"
local shown_as = ffi.new("char[32]")

-- With an exponent. LuaJIT's own format rounds 682052730660834.25 up where the C library and CPython round to even.
local function show(number, precision)
    local length = ffi.C.snprintf(shown_as, 32, "%.*e", ffi.new("int", precision), ffi.new("double", number))
    return ffi.string(shown_as, length)
end

-- The shortest digits that read back as the same number, laid out as CPython does.
local function spell_float(number)
    if number == 0 then return 1 / number < 0 and "-0.0" or "0.0" end
    if number ~= number or number - number ~= 0 then refuse() end
    local shown
    -- Up to 15 digits need no search, except in the small numbers that have fewer bits.
    for precision = math.abs(number) < 2.3e-308 and 0 or 14, 16 do
        shown = show(number, precision)
        if tonumber(shown) == number then break end
    end
    local sign, first, rest, exponent = match(shown, "^(-?)(%d)%.?(%d*)e(.*)$")
    local figures, point = first .. gsub(rest, "0+$", ""), tonumber(exponent) + 1
    if point > 16 or point < -3 then
        if #figures > 1 then figures = first .. "." .. sub(figures, 2) end
        return format("%s%se%s%02d", sign, figures, point > 0 and "+" or "-", math.abs(point - 1))
    end
    if point <= 0 then return sign .. "0." .. rep("0", -point) .. figures end
    if point >= #figures then return sign .. figures .. rep("0", point - #figures) .. ".0" end
    return sign .. sub(figures, 1, point) .. "." .. sub(figures, point + 1)
end

local function number_from(at)
    local from = at
    if byte(text, at) == 45 then at = at + 1 end
    local whole = at
    at = digits(at)
    if byte(text, whole) == 48 and at > whole + 1 then refuse() end
    local is_float, c = false, byte(text, at)
    if c == 46 then
        is_float, at = true, digits(at + 1)
        c = byte(text, at)
    end
    if c == 101 or c == 69 then
        c = byte(text, at + 1)
        is_float, at = true, digits((c == 43 or c == 45) and at + 2 or at + 1)
    end
    local number = sub(text, from, at - 1)
    if is_float then return spell_float(tonumber(number)), at end
    if at - whole > DIGITS then refuse() end
    return number == "-0" and "0" or number, at
end

local function array_from(at, depth)
    local parts, count = {}, 0
    at = blank(at)
    if byte(text, at) == 93 then return "[]", at + 1 end
    while true do
        count = count + 1
        parts[count], at = value(at, depth)
        at = blank(at)
        local c = byte(text, at)
        if c == 93 then return "[" .. concat(parts, ",") .. "]", at + 1 end
        if c ~= 44 then refuse() end
        at = blank(at + 1)
    end
end

-- An object from behind its brace on: its canonical text, what follows it, its members that are strings (as UTF-8) or
-- objects (as such tables), and the canonical text of every member.
local function object_from(at, depth)
    local names, keys, plain, members, count = {}, {}, {}, {}, 0
    at = blank(at)
    if byte(text, at) == 125 then return "{}", at + 1, plain, members end
    while true do
        if byte(text, at) ~= 34 then refuse() end
        local key, name
        key, at, name = string_from(at + 1)
        if members[name] then refuse() end
        at = blank(at)
        if byte(text, at) ~= 58 then refuse() end
        members[name], at, plain[name] = value(blank(at + 1), depth)
        keys[name] = key
        count = count + 1
        names[count] = name
        at = blank(at)
        local c = byte(text, at)
        if c == 125 then break end
        if c ~= 44 then refuse() end
        at = blank(at + 1)
    end
    sort(names)
    for place = 1, count do
        local name = names[place]
        names[place] = keys[name] .. ":" .. members[name]
    end
    return "{" .. concat(names, ",") .. "}", at + 1, plain, members
end

function value(at, depth)
    local c = byte(text, at)
    if c == 34 then return string_from(at + 1) end
    if c == 123 or c == 91 then
        if depth == 0 then refuse() end
        if c == 91 then return array_from(at + 1, depth - 1) end
        return object_from(at + 1, depth - 1)
    end
    if c == 116 and sub(text, at, at + 3) == "true" then return "true", at + 4 end
    if c == 102 and sub(text, at, at + 4) == "false" then return "false", at + 5 end
    if c == 110 and sub(text, at, at + 3) == "null" then return "null", at + 4 end
    return number_from(at)
end

local canonical = {}

-- Of the object that the body is: its members that are strings or objects, and the canonical text of every member. A
-- body that is no such object is an error.
function canonical.read(body)
    text = body
    local at = blank(1)
    if byte(text, at) ~= 123 then refuse() end
    local _, after, plain, members = object_from(at + 1, DEPTH - 1)
    if blank(after) <= #text then refuse() end
    return plain, members
end

return canonical
