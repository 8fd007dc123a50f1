# AES-256-GCM by Python's cryptography, which uid2-async installs.
seal() {
  python3 -c '
import os, sys, time
from base64 import b64decode, b64encode
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

key, iv = b64decode(os.environ["UID2_SECRET_KEY"]), os.urandom(12)
header = int(time.time() * 1000).to_bytes(8, "big") + os.urandom(8)
sealed = AESGCM(key).encrypt(iv, header + sys.stdin.buffer.read(), None)
print(b64encode(b"\x01" + iv + sealed).decode(), end="")'
}
unseal() {
  python3 -c '
import os, sys
from base64 import b64decode
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

key, sealed = b64decode(os.environ["UID2_SECRET_KEY"]), b64decode(sys.stdin.read())
print(AESGCM(key).decrypt(sealed[:12], sealed[12:], None)[16:].decode())'
}
path=/v2/token/generate
payload='{"email":"user@example.com","optout_check":1}'
echo "$payload" | seal |
  curl -sS --fail -H "Authorization: Bearer $UID2_API_KEY" --data-binary @- \
    "$UID2_BASE_URL$path" | unseal
