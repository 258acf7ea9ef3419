-- The checks that the gate makes of a new execution, as far as they need no memory: the request's form, its hash, the
-- approval's signature, tenant, issuer and age. There is no ledger: the same approval passes any number of times, and
-- nothing is remembered. What passes goes on as the client sent it.

local ffi = require "ffi"
local canonical = require "canonical"

local find, match, sub = string.find, string.match, string.sub

local LIFETIME = 300
local SKEW = 30
local ARTIFACT = { "approval_id", "action_hash", "signature", "issued_at", "tenant_id" }

-- nginx itself is linked with libcrypto. The older HMAC calls, because they keep the key's state between messages.
ffi.cdef [[
typedef struct evp_md_st EVP_MD;
typedef struct evp_md_ctx_st EVP_MD_CTX;
typedef struct hmac_ctx_st HMAC_CTX;
const EVP_MD *EVP_sha256(void);
EVP_MD_CTX *EVP_MD_CTX_new(void);
int EVP_DigestInit_ex(EVP_MD_CTX *context, const EVP_MD *type, void *engine);
int EVP_DigestUpdate(EVP_MD_CTX *context, const char *data, size_t length);
int EVP_DigestFinal_ex(EVP_MD_CTX *context, uint8_t *digest, unsigned int *length);
HMAC_CTX *HMAC_CTX_new(void);
int HMAC_Init_ex(HMAC_CTX *context, const char *key, int length, const EVP_MD *type, void *engine);
int HMAC_Update(HMAC_CTX *context, const char *data, size_t length);
int HMAC_Final(HMAC_CTX *context, uint8_t *digest, unsigned int *length);
int CRYPTO_memcmp(const void *one, const void *other, size_t length);
]]
local C = ffi.C

local digest_context, hmac_context = C.EVP_MD_CTX_new(), C.HMAC_CTX_new()
local digest = ffi.new("uint8_t[32]")
local hex = ffi.new("uint8_t[64]")
local HEX = ffi.new("uint8_t[17]", "0123456789abcdef")
local our_tenant

local function must(result)
    if result ~= 1 then error("libcrypto failed") end
end

-- `digest` as hex digits in `hex`.
local function to_hex()
    for place = 0, 31 do
        local value = digest[place]
        hex[2 * place] = HEX[bit.rshift(value, 4)]
        hex[2 * place + 1] = HEX[bit.band(value, 15)]
    end
end

local function sha256(text)
    must(C.EVP_DigestInit_ex(digest_context, nil, nil))
    must(C.EVP_DigestUpdate(digest_context, text, #text))
    must(C.EVP_DigestFinal_ex(digest_context, digest, nil))
    to_hex()
    return ffi.string(hex, 64)
end

local function is_signature(signature, text)
    must(C.HMAC_Init_ex(hmac_context, nil, 0, nil, nil))
    must(C.HMAC_Update(hmac_context, text, #text))
    must(C.HMAC_Final(hmac_context, digest, nil))
    to_hex()
    return #signature == 64 and C.CRYPTO_memcmp(hex, signature, 64) == 0
end

local function days_since_1970(year, month, day)
    if month <= 2 then year = year - 1 end
    local era = math.floor(year / 400)
    local of_era = year - era * 400
    local of_year = math.floor((153 * ((month + 9) % 12) + 2) / 5) + day - 1
    return era * 146097 + of_era * 365 + math.floor(of_era / 4) - math.floor(of_era / 100) + of_year - 719468
end

local function month_length(year, month)
    if month == 2 then
        return (year % 4 == 0 and year % 100 ~= 0 or year % 400 == 0) and 29 or 28
    end
    return (month == 4 or month == 6 or month == 9 or month == 11) and 30 or 31
end

-- Seconds since 1970, or nil for what is no time.
local function instant(text)
    local year, month, day, hour, minute, second, rest =
        match(text, "^(%d%d%d%d)%-(%d%d)%-(%d%d)[T ](%d%d):(%d%d):(%d%d)(.*)$")
    if not year then return nil end
    year, month, day = tonumber(year), tonumber(month), tonumber(day)
    hour, minute, second = tonumber(hour), tonumber(minute), tonumber(second)
    if year == 0 or month < 1 or month > 12 or day < 1 or day > month_length(year, month) then return nil end
    if hour > 23 or minute > 59 or second > 59 then return nil end
    local fraction = match(rest, "^%.(%d+)")
    if fraction then
        if #fraction > 9 then return nil end
        rest = sub(rest, #fraction + 2)
        fraction = tonumber("0." .. fraction)
    end
    local offset = 0
    if rest ~= "" and rest ~= "Z" then
        local sign, hours, minutes = match(rest, "^([+-])(%d%d):(%d%d)$")
        if not sign or tonumber(hours) > 23 or tonumber(minutes) > 59 then return nil end
        offset = (sign == "-" and -60 or 60) * (hours * 60 + minutes)
    end
    local time = ((days_since_1970(year, month, day) * 24 + hour) * 60 + minute) * 60 + second
    return time + (fraction or 0) - offset
end

local function is_name(text)
    return #text <= 128 and find(text, "^[%w._~-]+$") ~= nil
end

-- Nothing for a request that may pass, else a status, a code and a sentence.
local function refusal(body, now)
    local readable, plain, members = pcall(canonical.read, body)
    if not readable then return 422, "invalid_request", "The body: " .. plain end
    local action, payload, nonce, artifact = plain.action, plain.payload, plain.nonce, plain.approval_artifact
    if type(action) ~= "string" or #action < 1 or #action > 128 then
        return 422, "invalid_request", "action: a string of 1 to 128 bytes"
    end
    if type(payload) ~= "table" and (members.payload or "null") ~= "null" then
        return 422, "invalid_request", "payload: an object"
    end
    if type(nonce) ~= "string" or #nonce < 1 or #nonce > 256 or find(nonce, "%z") then
        return 422, "invalid_request", "nonce: a string of 1 to 256 bytes without U+0000"
    end
    if (members.approval_artifact or "null") == "null" then
        return 403, "approval_missing", "ClawShield mode requires an approval artifact"
    end
    if type(artifact) ~= "table" then return 422, "invalid_request", "approval_artifact: an object" end
    for _, name in ipairs(ARTIFACT) do
        if type(artifact[name]) ~= "string" then return 422, "invalid_request", "approval_artifact: " .. name end
    end

    local covered = '{"action":' .. members.action .. ',"payload":' .. (payload and members.payload or "{}") .. "}"
    local approval_id, tenant, issued_at = artifact.approval_id, artifact.tenant_id, artifact.issued_at
    if sha256(covered) ~= artifact.action_hash then
        return 403, "approval_hash_mismatch", "Action hash mismatch: approval does not match this request"
    end
    local signed = approval_id .. ":" .. artifact.action_hash .. ":" .. tenant .. ":" .. issued_at
    if not (is_name(approval_id) and is_name(tenant) and is_signature(artifact.signature, signed)) then
        return 403, "approval_signature_invalid", "Invalid signature: approval artifact is not authentic"
    end
    if tenant ~= our_tenant then return 403, "approval_tenant_mismatch", "Tenant mismatch" end
    if artifact.issued_by and artifact.issued_by ~= "clawshield" then
        return 403, "approval_issuer_unknown", "Unknown issuer"
    end
    local issued = instant(issued_at)
    if not issued then return 403, "approval_timestamp_invalid", "Invalid issued_at timestamp" end
    if now - issued > LIFETIME then return 403, "approval_expired", "Approval artifact expired" end
    if issued - now > SKEW then return 403, "approval_not_yet_valid", "Approval artifact not yet valid" end
end

local approval = {}

function approval.configure(secret, tenant)
    our_tenant = tenant
    must(C.EVP_DigestInit_ex(digest_context, C.EVP_sha256(), nil))
    must(C.HMAC_Init_ex(hmac_context, secret, #secret, C.EVP_sha256(), nil))
end

-- To be called in nginx's access phase: lets the request go on, or answers it.
function approval.check()
    ngx.req.read_body()
    local status, code, detail = refusal(ngx.req.get_body_data() or "", ngx.now())
    if not status then return end
    local answer = string.format('{"status":%d,"detail":"%s","code":"%s"}', status, detail, code)
    ngx.status = status
    ngx.header["Content-Type"] = "application/problem+json"
    ngx.header["Content-Length"] = #answer
    ngx.print(answer)
    return ngx.exit(status)
end

return approval
