import java.net.URI;
import java.net.http.*;
import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.security.SecureRandom;
import java.util.Arrays;
import java.util.Base64;
import javax.crypto.Cipher;
import javax.crypto.spec.*;

public class Call {
    static final String PATH = "/v2/token/generate";
    static final String PAYLOAD = "{\"email\":\"user@example.com\",\"optout_check\":1}";

    static byte[] aes(int mode, byte[] iv, byte[] data) throws Exception {
        byte[] key = Base64.getDecoder().decode(System.getenv("UID2_SECRET_KEY"));
        Cipher cipher = Cipher.getInstance("AES/GCM/NoPadding");
        cipher.init(mode, new SecretKeySpec(key, "AES"), new GCMParameterSpec(128, iv));
        return cipher.doFinal(data);
    }

    public static void main(String[] arguments) throws Exception {
        // The request: version 1, IV, then time in ms, nonce and JSON by AES-256-GCM.
        byte[] iv = new byte[12], nonce = new byte[8];
        SecureRandom random = new SecureRandom();
        random.nextBytes(iv);
        random.nextBytes(nonce);
        byte[] json = PAYLOAD.getBytes(StandardCharsets.UTF_8);
        byte[] plain = ByteBuffer.allocate(16 + json.length)
            .putLong(System.currentTimeMillis()).put(nonce).put(json).array();
        byte[] sealed = aes(Cipher.ENCRYPT_MODE, iv, plain);
        byte[] body = ByteBuffer.allocate(13 + sealed.length)
            .put((byte) 1).put(iv).put(sealed).array();

        HttpRequest request = HttpRequest.newBuilder()
            .uri(URI.create(System.getenv("UID2_BASE_URL") + PATH))
            .header("Authorization", "Bearer " + System.getenv("UID2_API_KEY"))
            .POST(HttpRequest.BodyPublishers.ofString(Base64.getEncoder().encodeToString(body)))
            .build();
        HttpResponse<String> reply = HttpClient.newHttpClient()
            .send(request, HttpResponse.BodyHandlers.ofString());
        if (reply.statusCode() != 200) {
            throw new Exception("HTTP " + reply.statusCode() + ": " + reply.body());
        }

        // The reply: IV, then time, the same nonce and JSON.
        byte[] answer = Base64.getDecoder().decode(reply.body());
        byte[] opened = aes(Cipher.DECRYPT_MODE, Arrays.copyOf(answer, 12),
            Arrays.copyOfRange(answer, 12, answer.length));
        if (!Arrays.equals(opened, 8, 16, nonce, 0, 8)) {
            throw new Exception("Not the reply to this request.");
        }
        System.out.println(
            new String(opened, 16, opened.length - 16, StandardCharsets.UTF_8));
    }
}
