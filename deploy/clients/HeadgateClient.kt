/*
 * Headgate from Kotlin with OkHttp (4.x or 5.x): a POST stream that survives a broken line, and cancel. One file; copy it.
 *
 * Law: every frame once, in order, or an exception. The id is chosen here, so that a request whose answer never arrived
 * is found again; frames are counted, so that what is missing can be asked for; what has ended is answered with 204.
 *
 *     val client = HeadgateClient("https://gateway.example", mapOf("Authorization" to "Bearer $key"))
 *     withContext(Dispatchers.IO) {
 *         client.stream("/v1/chat/completions", json) { frame -> show(frame.data) }
 *     }
 *
 * `stream` blocks its thread: call it on Dispatchers.IO or from a worker. To leave (the stream goes on at the gateway, as
 * its disconnect policy says) interrupt the thread; to stop it, `cancel(streamId)`. When Android puts the app to sleep,
 * keep `streamId` and the last `number`, and call `attach` when it wakes.
 */
package dev.headgate

import java.io.IOException
import java.util.UUID
import java.util.concurrent.TimeUnit
import kotlin.math.min
import kotlin.math.pow
import kotlin.random.Random
import okhttp3.HttpUrl.Companion.toHttpUrl
import okhttp3.MediaType.Companion.toMediaType
import okhttp3.OkHttpClient
import okhttp3.Request
import okhttp3.RequestBody.Companion.toRequestBody
import okhttp3.Response
import okio.BufferedSource

/** One frame: its number from 1, its SSE event name (or ""), its data as it came. */
data class Frame(val number: Int, val event: String, val data: String)

/** The stream cannot be gone on with. `status` is the gateway's; 404, 410: it is gone; 0: the connection was lost for good,
 *  or the answer failed (the message is its error frame, which `onFrame` has seen too). */
class HeadgateException(val status: Int, val streamId: String, val received: Int, message: String) : IOException(message)

class HeadgateClient(
    baseUrl: String,
    private val headers: Map<String, String> = emptyMap(),
    private val attempts: Int = 12,
    client: OkHttpClient = OkHttpClient(),
) {
    private val base = baseUrl.toHttpUrl()
    // A retry of OkHttp's own could send a request twice; a minute without a byte (keepalives come more often) is a dead line.
    private val http = client.newBuilder().retryOnConnectionFailure(false).readTimeout(60, TimeUnit.SECONDS).build()

    /** POST `json` (which should say `"stream": true` where the API has that) and read its stream to the end. */
    fun stream(path: String, json: String, streamId: String = newStreamId(), onFrame: (Frame) -> Unit): String {
        read(streamId, 0, path, json, onFrame)
        return streamId
    }

    /** Read a stream that exists, behind the first `after` frames. */
    fun attach(streamId: String, after: Int = 0, onFrame: (Frame) -> Unit) = read(streamId, after, null, "", onFrame)

    /** Stop a stream at its source, wherever it runs. Idempotent. */
    fun cancel(streamId: String) {
        http.newCall(request(address(streamId, null)).delete().build()).execute().use { answer ->
            if (!answer.isSuccessful) throw refused(answer, streamId, 0)
        }
    }

    private fun read(streamId: String, after: Int, path: String?, json: String, onFrame: (Frame) -> Unit) {
        var number = after
        var fruitless = 0
        var known = path == null
        var asked = known // the request was sent: from now on it is looked for
        var repeated = false
        while (fruitless < attempts) {
            val before = number
            val reading = asked
            try {
                val call = if (reading) request(address(streamId, number)).get() else post(path!!, json, streamId)
                asked = true
                http.newCall(call.build()).execute().use { answer ->
                    when {
                        answer.code == 204 -> return
                        answer.code == 404 && reading && !known -> {
                            asked = false // it never arrived: ask again, under the same id
                            repeated = true
                        }
                        answer.code == 409 && repeated && !reading -> Unit // it did arrive
                        answer.code in LATER && (known || answer.header("X-Stream-Id") == null) -> Unit
                        !answer.isSuccessful -> throw refused(answer, streamId, number)
                        else -> {
                            known = true
                            val last = frames(answer.body!!.source()) { event, data ->
                                number += 1
                                Frame(number, event, data).also(onFrame)
                            }
                            if (last != null && failed(last)) throw HeadgateException(0, streamId, number, last.data)
                            if (last != null) return
                        }
                    }
                }
            } catch (lost: IOException) {
                if (lost is HeadgateException || Thread.interrupted()) throw lost
            }
            fruitless = if (number > before) 0 else fruitless + 1
            Thread.sleep((Random.nextDouble(0.5, 1.0) * min(10_000.0, 200 * 2.0.pow(fruitless))).toLong())
        }
        throw HeadgateException(0, streamId, number, "the connection was lost after $number frames")
    }

    /** The protocol's last frame; null: it did not come. An event that breaks off before its blank line is none. */
    private fun frames(source: BufferedSource, onEvent: (String, String) -> Frame): Frame? {
        var event = ""
        val data = mutableListOf<String>()
        while (true) {
            val line = source.readUtf8Line() ?: return null
            if (line.isEmpty()) {
                if (data.isNotEmpty()) {
                    val frame = onEvent(event, data.joinToString("\n"))
                    if (frame.data == "[DONE]" || event in LAST || failed(frame)) return frame
                }
                event = ""
                data.clear()
                continue
            }
            val value = line.substringAfter(':', "").removePrefix(" ")
            when (line.substringBefore(':')) {
                "data" -> data += value
                "event" -> event = value
            }
        }
    }

    private fun failed(frame: Frame) =
        frame.event == "error" || frame.event == "response.failed" || frame.event.isEmpty() && frame.data.startsWith("{\"error\"")

    private fun post(path: String, json: String, streamId: String) =
        request(base.resolve(path)!!.toString())
            .header("X-Stream-Id", streamId)
            .header("X-Stream-On-Disconnect", "grace=60s")
            .post(json.toRequestBody("application/json".toMediaType()))

    private fun request(url: String) = Request.Builder().url(url).apply { headers.forEach { (name, value) -> header(name, value) } }

    private fun address(streamId: String, after: Int?): String {
        val url = base.newBuilder().addPathSegments("api/streaming").addPathSegment(streamId)
        if (after != null) url.addQueryParameter("protocol", "origin").addQueryParameter("after", after.toString())
        return url.build().toString()
    }

    private fun refused(answer: Response, streamId: String, received: Int) =
        HeadgateException(answer.code, streamId, received, answer.body?.string()?.take(1000) ?: "refused")

    companion object {
        private val LATER = setOf(408, 416, 429, 500, 502, 503, 504)
        private val LAST = setOf("done", "error", "message_stop", "response.completed", "response.incomplete", "response.failed")

        fun newStreamId() = "kt_" + UUID.randomUUID().toString().replace("-", "")
    }
}
