import com.uid2.client.IdentityMapV3Client;
import com.uid2.client.IdentityMapV3Input;
import com.uid2.client.PublisherUid2Client;
import com.uid2.client.TokenGenerateInput;
import java.util.ArrayList;
import java.util.List;
import java.util.Scanner;
import java.util.concurrent.Callable;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import java.util.stream.Collectors;
import java.util.stream.IntStream;

/** Makes calls with the official Java SDK, in 20 threads: as many as each line of stdin asks for. */
public class Calls {
    static final int THREADS = 20;
    static final int BATCH = 5_000;

    public static void main(String[] args) throws Exception {
        var publisher = new PublisherUid2Client(args[0], args[2], args[3]);
        var mapper = new IdentityMapV3Client(args[1], args[2], args[3]);
        ExecutorService pool = Executors.newFixedThreadPool(THREADS);
        var lines = new Scanner(System.in);
        while (lines.hasNext()) {
            String what = lines.next();
            int count = lines.nextInt();
            List<Callable<Boolean>> calls = new ArrayList<>();
            for (int number = 0; number < count; number++) {
                int batch = number;
                calls.add(
                        what.equals("generate")
                                ? () -> generate(publisher)
                                : () -> map(mapper, batch));
            }
            for (Future<Boolean> call : pool.invokeAll(calls)) {
                if (!call.get()) {
                    throw new IllegalStateException("A call has failed.");
                }
            }
            System.out.println("done");
        }
        pool.shutdown();
    }

    static boolean generate(PublisherUid2Client publisher) {
        var input = TokenGenerateInput.fromEmail("user@example.com");
        return publisher.generateTokenResponse(input).isSuccess();
    }

    static boolean map(IdentityMapV3Client mapper, int batch) {
        List<String> emails =
                IntStream.range(batch * BATCH, (batch + 1) * BATCH)
                        .mapToObj(number -> "customer." + number + "@example.com")
                        .collect(Collectors.toList());
        var reply = mapper.generateIdentityMap(IdentityMapV3Input.fromEmails(emails));
        return reply.getMappedIdentities().size() == BATCH;
    }
}
