"""Ed25519 signatures (RFC 8032, section 5.1), since Python's standard library has none.

NOT CONSTANT-TIME: how long it takes depends on the private key. Whoever can measure many signatures closely, on the
same machine above all, may learn it. It is here so that this example needs nothing else, and to be read. In production
sign with the package `cryptography` (`Ed25519PrivateKey.sign`), or with OpenSSL, which reads the same key file:

    openssl pkeyutl -sign -rawin -inkey approver.pem -in message -out signature
"""
import base64
import hashlib
import re

# The field's prime, the order of the base point, and the curve -x^2 + y^2 = 1 + d x^2 y^2.
P = 2**255 - 19
ORDER = 2**252 + 27742317777372353535851937790883648493
D = -121665 * pow(121666, -1, P) % P

# What comes before the 32 bytes of a private key in RFC 8410's PrivateKeyInfo: version 0, the algorithm 1.3.101.112,
# and an octet string in an octet string.
PKCS8 = bytes.fromhex("302e020100300506032b657004220420")
PEM = re.compile(r"-----BEGIN PRIVATE KEY-----\s+([A-Za-z0-9+/=\s]+?)\s+-----END PRIVATE KEY-----", re.ASCII)


def seed_of_pem(text):
    """The private key of a PEM text, as `openexec keys generate` and `openssl genpkey` write it; or ValueError."""
    found = PEM.fullmatch(text.strip())
    der = base64.b64decode("".join(found[1].split()), validate=True) if found else b""
    if not der.startswith(PKCS8) or len(der) != len(PKCS8) + 32:
        raise ValueError('no PEM text of an Ed25519 private key ("BEGIN PRIVATE KEY", RFC 8410)')
    return der[len(PKCS8):]


def sign(seed, message):
    """The 64 bytes of a signature (section 5.1.6)."""
    digest = hashlib.sha512(seed).digest()
    secret = clamped(digest[:32])
    public = encoded(times(secret, BASE))
    nonce = hashed(digest[32:], message)
    commitment = encoded(times(nonce, BASE))
    answer = (nonce + hashed(commitment, public, message) * secret) % ORDER
    return commitment + answer.to_bytes(32, "little")


def clamped(half):
    """The secret scalar (section 5.1.5): a multiple of 8 whose highest bit is the one for 2^254."""
    return int.from_bytes(half, "little") & ~7 & (2**255 - 1) | 2**254


def hashed(*parts):
    return int.from_bytes(hashlib.sha512(b"".join(parts)).digest(), "little") % ORDER


# Points are (X, Y, Z, T) with x = X/Z, y = Y/Z and xy = T/Z (section 5.1.4), so that adding needs no division.


def add(one, other):
    x1, y1, z1, t1 = one
    x2, y2, z2, t2 = other
    a = (y1 - x1) * (y2 - x2)
    b = (y1 + x1) * (y2 + x2)
    c = 2 * D * t1 * t2
    d = 2 * z1 * z2
    e, f, g, h = b - a, d - c, d + c, b + a
    return e * f % P, g * h % P, f * g % P, e * h % P


def times(scalar, point):
    """Doubled for each bit, highest first, and added to where the bit is set."""
    product = (0, 1, 1, 0)
    for bit in f"{scalar:b}":
        product = add(product, product)
        if bit == "1":
            product = add(product, point)
    return product


def encoded(point):
    """32 bytes: y, and the lowest bit of x in the highest bit (section 5.1.2)."""
    x, y, z, _ = point
    inverse = pow(z, -1, P)
    x, y = x * inverse % P, y * inverse % P
    return (y | (x & 1) << 255).to_bytes(32, "little")


def base_point():
    """y is 4/5 and x, the even one of two, is a square root (sections 5.1 and 5.1.3)."""
    y = 4 * pow(5, -1, P) % P
    square = (y * y - 1) * pow(D * y * y + 1, -1, P) % P
    x = pow(square, (P + 3) // 8, P)
    if x * x % P != square:
        x = x * pow(2, (P - 1) // 4, P) % P
    if x & 1:
        x = P - x
    return x, y, 1, x * y % P


BASE = base_point()
