package main

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"io"
	"log"
	"net/http"
	"os"
	"strings"
	"time"
)

const path = "/v2/token/generate"
const payload = `{"email":"user@example.com","optout_check":1}`

func must[T any](value T, err error) T {
	if err != nil {
		log.Fatal(err)
	}
	return value
}

func main() {
	key := must(base64.StdEncoding.DecodeString(os.Getenv("UID2_SECRET_KEY")))
	gcm := must(cipher.NewGCM(must(aes.NewCipher(key))))

	// The request: version 1, IV, then time in ms, nonce and JSON by AES-256-GCM.
	iv, header := make([]byte, 12), make([]byte, 16)
	must(rand.Read(iv))
	must(rand.Read(header))
	binary.BigEndian.PutUint64(header, uint64(time.Now().UnixMilli()))
	body := append([]byte{1}, iv...)
	body = gcm.Seal(body, iv, append(header, payload...), nil)

	text := strings.NewReader(base64.StdEncoding.EncodeToString(body))
	request := must(http.NewRequest("POST", os.Getenv("UID2_BASE_URL")+path, text))
	request.Header.Set("Authorization", "Bearer "+os.Getenv("UID2_API_KEY"))
	reply := must(http.DefaultClient.Do(request))
	answer := must(io.ReadAll(reply.Body))
	if reply.StatusCode != 200 {
		log.Fatalf("HTTP %d: %s", reply.StatusCode, answer)
	}

	// The reply: IV, then time, the same nonce and JSON.
	sealed := must(base64.StdEncoding.DecodeString(string(answer)))
	opened := must(gcm.Open(nil, sealed[:12], sealed[12:], nil))
	if !bytes.Equal(opened[8:16], header[8:]) {
		log.Fatal("Not the reply to this request.")
	}
	fmt.Println(string(opened[16:]))
}
