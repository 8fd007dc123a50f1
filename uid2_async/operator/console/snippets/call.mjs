import { createCipheriv, createDecipheriv, randomBytes } from "node:crypto";

const { UID2_BASE_URL, UID2_API_KEY, UID2_SECRET_KEY } = process.env;
const path = "/v2/token/generate";
const payload = '{"email":"user@example.com","optout_check":1}';
const key = Buffer.from(UID2_SECRET_KEY, "base64");

// The request: version 1, IV, then time in ms, nonce and JSON by AES-256-GCM.
const iv = randomBytes(12);
const time = Buffer.alloc(8);
time.writeBigInt64BE(BigInt(Date.now()));
const nonce = randomBytes(8);
const plain = Buffer.concat([time, nonce, Buffer.from(payload)]);
const cipher = createCipheriv("aes-256-gcm", key, iv);
const sealed = Buffer.concat([cipher.update(plain), cipher.final(), cipher.getAuthTag()]);
const body = Buffer.concat([Buffer.from([1]), iv, sealed]).toString("base64");

const headers = { Authorization: `Bearer ${UID2_API_KEY}` };
const reply = await fetch(UID2_BASE_URL + path, { method: "POST", headers, body });
const text = await reply.text();
if (!reply.ok) throw new Error(`HTTP ${reply.status}: ${text}`);

// The reply: IV, then time, the same nonce and JSON.
const answer = Buffer.from(text, "base64");
const decipher = createDecipheriv("aes-256-gcm", key, answer.subarray(0, 12));
decipher.setAuthTag(answer.subarray(-16));
const opened = Buffer.concat([decipher.update(answer.subarray(12, -16)), decipher.final()]);
if (!opened.subarray(8, 16).equals(nonce)) throw new Error("Not the reply to this request.");
console.log(opened.subarray(16).toString());
