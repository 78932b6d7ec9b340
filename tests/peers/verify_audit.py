#!/usr/bin/env python3
"""An independent verifier of audit exports: written from the RFCs, sharing no code with the product.

Usage: verify_audit.py FILE        prints one line for each log and exits 0, or names the first bad line and exits 1.

Standards: JSON lines (RFC 8259), Merkle tree (RFC 9162 section 2.1), Ed25519 (RFC 8032 section 5.1), C2SP signed-note
and tlog-checkpoint. Python's standard library only.
"""
import base64
import hashlib
import json
import re
import sys

# Ed25519, as RFC 8032 appendix A has it.
P = 2**255 - 19
Q = 2**252 + 27742317777372353535851937790883648493
D = -121665 * pow(121666, P - 2, P) % P
SQRT_M1 = pow(2, (P - 1) // 4, P)


def recover_x(y, sign):
    if y >= P:
        return None
    x2 = (y * y - 1) * pow(D * y * y + 1, P - 2, P) % P
    if x2 == 0:
        return None if sign else 0
    x = pow(x2, (P + 3) // 8, P)
    if (x * x - x2) % P:
        x = x * SQRT_M1 % P
    if (x * x - x2) % P:
        return None
    return P - x if (x & 1) != sign else x


def add(a, b):
    e = (a[1] - a[0]) * (b[1] - b[0]) % P
    f = (a[1] + a[0]) * (b[1] + b[0]) % P
    g, h = 2 * a[3] * b[3] * D % P, 2 * a[2] * b[2] % P
    e, f, g, h = f - e, h - g, h + g, f + e
    return e * f % P, g * h % P, f * g % P, e * h % P


def multiply(scalar, point):
    result = (0, 1, 1, 0)
    while scalar:
        if scalar & 1:
            result = add(result, point)
        point = add(point, point)
        scalar >>= 1
    return result


def decompress(text):
    y = int.from_bytes(text, "little")
    sign, y = y >> 255, y & ((1 << 255) - 1)
    x = recover_x(y, sign)
    return None if x is None else (x, y, 1, x * y % P)


BASE_Y = 4 * pow(5, P - 2, P) % P
BASE_X = recover_x(BASE_Y, 0)
BASE = (BASE_X, BASE_Y, 1, BASE_X * BASE_Y % P)


def signature_is_good(public, message, signature):
    if len(public) != 32 or len(signature) != 64:
        return False
    a, r, s = decompress(public), decompress(signature[:32]), int.from_bytes(signature[32:], "little")
    if a is None or r is None or s >= Q:
        return False
    h = int.from_bytes(hashlib.sha512(signature[:32] + public + message).digest(), "little") % Q
    left, right = multiply(s, BASE), add(r, multiply(h, a))
    same = (left[0] * right[2] - right[0] * left[2]) % P == 0
    return same and (left[1] * right[2] - right[1] * left[2]) % P == 0


class Bad(Exception):
    def __init__(self, line, reason):
        super().__init__(f"line {line}: {reason}")


def sha256(data):
    return hashlib.sha256(data).digest()


class Tree:
    """Appends leaves; keeps the roots of the complete subtrees only."""

    def __init__(self):
        self.size, self.peaks = 0, []

    def append(self, leaf):
        node, size = leaf, self.size
        while size & 1:
            node = sha256(b"\x01" + self.peaks.pop() + node)
            size >>= 1
        self.peaks.append(node)
        self.size += 1

    def root(self):
        if not self.peaks:
            return sha256(b"")
        node = self.peaks[-1]
        for peak in reversed(self.peaks[:-1]):
            node = sha256(b"\x01" + peak + node)
        return node


class Log:
    def __init__(self, line, shard, verifier, origin):
        name, hash_, key = (verifier.split("+", 2) + ["", ""])[:3]
        key = base64.b64decode(key)
        if name != f"{origin}/shard-{shard}" or key[:1] != b"\x01" or len(key) != 33:
            raise Bad(line, f"shard {shard}: not a verifier key of this log")
        self.id = sha256(name.encode() + b"\n" + key)[:4]
        if hash_ != self.id.hex():
            raise Bad(line, f"shard {shard}: the hash of the verifier key is wrong")
        self.shard, self.name, self.key = shard, name, key[1:]
        self.tree, self.signed, self.first_unsigned = Tree(), False, None

    def entry(self, number, claimed, leaf):
        hash_ = sha256(b"\x00" + leaf)
        if hash_.hex() != claimed:
            raise Bad(number, "the entry does not have its leaf hash")
        entry = json.loads(leaf)
        if (entry["shard"], entry["index"]) != (self.shard, self.tree.size):
            raise Bad(number, f"expected entry {self.tree.size} of shard {self.shard}")
        self.tree.append(hash_)
        self.first_unsigned = self.first_unsigned or number

    def checkpoint(self, number, note):
        text, _, signatures = note.rpartition("\n\n")
        text += "\n"
        origin, size, root = text.split("\n")[:3]
        if origin != self.name or not re.fullmatch("0|[1-9][0-9]*", size):
            raise Bad(number, f"shard {self.shard}: not a checkpoint of this log")
        for line in signatures.strip("\n").split("\n"):
            match = re.fullmatch("\u2014 (\\S+) (\\S+)", line)
            if not match:
                raise Bad(number, "a signature line is malformed")
            signed = base64.b64decode(match[2])
            if match[1] == self.name and signed[:4] == self.id:
                if not signature_is_good(self.key, text.encode(), signed[4:]):
                    raise Bad(number, f"shard {self.shard}: the signature is wrong")
                break
        else:
            raise Bad(number, f"shard {self.shard}: no signature by the log's key")
        if int(size) != self.tree.size:
            raise Bad(number, f"the checkpoint is over {size} entries, the file has {self.tree.size} before it")
        if base64.b64decode(root) != self.tree.root():
            raise Bad(self.first_unsigned or number, f"the entries up to line {number} do not lead to the signed root")
        self.signed, self.first_unsigned = True, None

    def is_whole(self):
        return self.signed and self.first_unsigned is None


ENTRY = re.compile(rb'\{"leaf_hash":"([0-9a-f]{64})","entry":(\{.*\})\}')


def verify(path):
    with open(path, "rb") as file:
        lines = file.read().split(b"\n")
    if lines[-1] != b"":
        raise Bad(len(lines), "the last line does not end")
    lines.pop()
    header = json.loads(lines[0])
    if header.get("format") != "construct-audit-export" or header.get("version") != 1:
        raise Bad(1, "not an export of version 1")
    left = [(log["shard"], log["verifier"]) for log in header["logs"]]
    done, current, ended = [], None, False
    for number, line in enumerate(lines[1:], start=2):
        if ended:
            raise Bad(number, "there is more after the end")
        match = ENTRY.fullmatch(line)
        data = None if match else json.loads(line)
        if data and "end" in data:
            if left or (current and not current.is_whole()):
                raise Bad(number, "a log is missing or does not end with a checkpoint")
            done.append(current)
            if data["end"]["entries"] != sum(log.tree.size for log in done):
                raise Bad(number, "the number of entries is wrong")
            ended = True
            continue
        shard = json.loads(match[2])["shard"] if match else int(data["checkpoint"].split("\n")[0].rpartition("-")[2])
        if current is None or (shard != current.shard and current.is_whole()):
            done += [current] if current else []
            if not left:
                raise Bad(number, "a log that the header does not name")
            current = Log(number, *left.pop(0), header["origin"])
        if match:
            current.entry(number, match[1].decode(), match[2])
        else:
            current.checkpoint(number, data["checkpoint"])
    if not ended:
        raise Bad(len(lines) + 1, "the file is cut off")
    return done


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    try:
        for log in verify(sys.argv[1]):
            print(f"{log.name}: {log.tree.size} entries, root {log.tree.root().hex()}")
    except Bad as bad:
        print(bad, file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
