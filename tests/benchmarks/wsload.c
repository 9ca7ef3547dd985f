/* wsload - a WebSocket load generator for servers (RFC 6455, loopback).
 *
 * One thread, one epoll loop, no library (zlib only with -DWITH_ZLIB, for -z).
 *
 *   wsload echo    -p PORT [-c CONNS] [-d DEPTH] [-s SIZE] [-k t|b|u] [-T SECS] [-w SECS] [-z]
 *   wsload fanout  -p PORT -c RECEIVERS [-d DEPTH] [-s SIZE] [-T SECS]
 *   wsload connect -p PORT -c CONCURRENCY [-T SECS]
 *   wsload idle    -p PORT -c CONNS [-s SIZE]      (prints READY, waits for a line on stdin)
 *
 *   -k t|b|u  JSON-like ASCII text, random binary, UTF-8 text of 1 to 4 byte characters
 *   -u PATH   request path; -w SECS warm-up; -r N connections in their handshake at a time
 *   -z        offer permessage-deflate and send compressed messages (prepared beforehand)
 *   -R        raw TCP: no handshake, no frames (echo mode; the floor of a runtime)
 *
 * echo:    each connection keeps DEPTH messages in flight; the server must echo
 *          every message.  Every byte of every echo is compared with what was
 *          sent (NVAR different payloads in turn, so a lost, doubled or swapped
 *          message shows).
 * fanout:  CONNS connections; the first one sends, the server must send each
 *          message to all of them (the sender included); at most DEPTH messages
 *          are on their way, a message being done when all have it.
 * connect: TCP connect, handshake, close frame, close frame back, end of stream;
 *          CONCURRENCY of them at a time.
 * idle:    opens CONNS connections, echoes one message on each, prints READY and
 *          holds them, answering pings, until a line (or end of file) arrives on
 *          stdin; then checks one more echo on each and closes.
 *
 * Output: one line of JSON on stdout.  Exit status: 0 when nothing went wrong,
 * 1 when a check failed (see "errors" in the JSON), 2 on bad usage.  "unclean"
 * counts the connections that ended without the closing handshake (or did not
 * end in time): no error, but in connect mode they do not count as done.
 */
#define _GNU_SOURCE
#include "wsutil.h"
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>
#ifdef WITH_ZLIB
#include <zlib.h>
#endif

#define MAXVAR 16
#define RBUF (256 * 1024)
#define NKEYS 64
#define MAXIOV 64

enum { S_FREE, S_CONNECTING, S_HANDSHAKE, S_OPEN, S_CLOSING, S_EOFWAIT };

struct variant { uint8_t *payload; uint8_t *frame; size_t frame_len; };

struct conn {
    int fd, state, want_out, id, key;
    int close_sent, close_seen, failed;
    uint64_t t_start;
    /* output */
    uint64_t out_seq, sent_seq;      /* frames [out_seq, sent_seq) wait to be written */
    size_t out_off;
    uint8_t ctl[512]; size_t ctl_len, ctl_off;
    const char *hs; size_t hs_len, hs_off;
    /* input */
    char *resp; size_t resp_len;
    uint8_t hdr[14]; size_t hdr_have;
    uint64_t left; int in_payload, fin, op, rsv1;
    int msg_op, msg_rsv1; uint64_t msg_off;
    uint8_t ctlin[125]; size_t ctlin_len;
    uint64_t recv_seq;
    uint64_t *ts;                    /* send time by seq % depth */
    struct variant *var;             /* variant set in use */
#ifdef WITH_ZLIB
    z_stream inf; int inf_on, server_nct;
#endif
};

static struct {
    const char *mode, *host, *path;
    int port, conns, depth, kind, deflate, ramp, raw;
    size_t size;
    double secs, warm;
} O = { "echo", "127.0.0.1", "/", 0, 1, 1, 't', 0, 64, 0, 32, 2.0, 0.5 };

static int ep, nvar;
static struct conn *C;
static struct variant *vars[16];     /* [0] plain; [wbits] deflated with that window */
static char keys[NKEYS][25], accepts[NKEYS][32], *hsreq[NKEYS];
static uint8_t rbuf[RBUF];
#ifdef WITH_ZLIB
static uint8_t ibuf[RBUF];
#endif
static int phase;                    /* 0 opening, 1 running, 2 draining, 3 closing */
static int n_open, n_closed, n_started, is_fanout, is_connect, is_idle;
static uint64_t t_now, w0, w1;
static uint64_t n_msgs, n_total, n_errors, n_unclean, n_conn, n_conn_total, n_compressed, n_pings, n_wire;
static char first_error[200];
/* fanout */
static uint64_t *fan_left; static uint64_t fan_done;
/* latency histogram: 64 sub-buckets per power of two */
static uint64_t hist[64 * 40], hist_n;

static void lat_add(uint64_t ns)
{
    int e = 63 - __builtin_clzll(ns | 64), s = e - 6;
    unsigned i = (unsigned)(s * 64 + (ns >> s) - 64) ;
    if (ns < 64) i = 0;
    if (i >= sizeof hist / sizeof *hist) i = sizeof hist / sizeof *hist - 1;
    hist[i]++; hist_n++;
}
static double lat_pct(double q)
{
    uint64_t want = (uint64_t)(q * (double)hist_n), acc = 0;
    for (unsigned i = 0; i < sizeof hist / sizeof *hist; i++) {
        acc += hist[i];
        if (acc > want) { unsigned s = i / 64; return (double)((uint64_t)(i % 64 + 64) << s) / 1000.0; }
    }
    return 0;
}

static void fail(struct conn *c, const char *why)
{
    n_errors++;
    if (!first_error[0]) snprintf(first_error, sizeof first_error, "conn %d state %d msg %llu: %s", c ? c->id : -1,
                                  c ? c->state : -1, c ? (unsigned long long)c->recv_seq : 0ull, why);
    if (c) c->failed = 1;
}

static void make_variants(struct variant **dst, int wbits)
{
    struct variant *v = calloc((size_t)nvar, sizeof *v);
    for (int i = 0; i < nvar; i++) {
        uint8_t mask[4]; uint64_t r = rng();
        size_t n = O.size, hl; const uint8_t *src; int rsv1 = 0; uint8_t *tmp = NULL;
        memcpy(mask, &r, 4);
        if (wbits == 0) {
            v[i].payload = malloc(O.size + 1);
            fill_payload(v[i].payload, O.size, O.kind);
        } else v[i].payload = vars[0][i].payload;
        src = v[i].payload;
#ifdef WITH_ZLIB
        if (wbits) {
            z_stream z; memset(&z, 0, sizeof z);
            if (deflateInit2(&z, 6, Z_DEFLATED, -wbits, 8, Z_DEFAULT_STRATEGY) != Z_OK) { fprintf(stderr, "deflateInit2\n"); exit(2); }
            size_t cap = O.size + O.size / 8 + 256;
            tmp = malloc(cap);
            z.next_in = (Bytef *)src; z.avail_in = (uInt)O.size; z.next_out = tmp; z.avail_out = (uInt)cap;
            deflate(&z, Z_SYNC_FLUSH);
            n = cap - z.avail_out - 4;
            deflateEnd(&z);
            src = tmp; rsv1 = 1;
        }
#endif
        v[i].frame = malloc(n + 14);
        hl = ws_header(v[i].frame, 1, rsv1, O.kind == 'b' ? 2 : 1, n, mask);
        memcpy(v[i].frame + hl, src, n);
        if (O.raw) { memcpy(v[i].frame, src, n); v[i].frame_len = n; continue; }
        ws_mask(v[i].frame + hl, n, mask, 0);
        v[i].frame_len = hl + n;
        free(tmp);
    }
    *dst = v;
}

static void set_out(struct conn *c, int on)
{
    if (c->want_out == on) return;
    struct epoll_event ev = { .events = EPOLLIN | (on ? EPOLLOUT : 0), .data.ptr = c };
    c->want_out = on;
    epoll_ctl(ep, EPOLL_CTL_MOD, c->fd, &ev);
}

static void conn_done(struct conn *c, int clean);

static void flush_out(struct conn *c)
{
    for (;;) {
        struct iovec iov[MAXIOV]; int k = 0; ssize_t r;
        if (c->fd < 0) return;
        if (c->hs_off < c->hs_len) { iov[k].iov_base = (void *)(c->hs + c->hs_off); iov[k++].iov_len = c->hs_len - c->hs_off; }
        else {
            /* a control frame may only go between frames */
            uint64_t s = c->out_seq; size_t off = c->out_off;
            if (off && s < c->sent_seq) {
                struct variant *v = &c->var[s % (uint64_t)nvar];
                iov[k].iov_base = v->frame + off; iov[k++].iov_len = v->frame_len - off; s++;
            } else if (c->ctl_off < c->ctl_len) {
                iov[k].iov_base = c->ctl + c->ctl_off; iov[k++].iov_len = c->ctl_len - c->ctl_off;
                s = c->sent_seq;
            }
            for (; s < c->sent_seq && k < MAXIOV && (k == 0 || c->out_off || c->ctl_off >= c->ctl_len); s++) {
                struct variant *v = &c->var[s % (uint64_t)nvar];
                iov[k].iov_base = v->frame; iov[k++].iov_len = v->frame_len;
            }
        }
        if (!k) { set_out(c, 0); return; }
        struct msghdr mh = { .msg_iov = iov, .msg_iovlen = (size_t)k };
        r = sendmsg(c->fd, &mh, MSG_NOSIGNAL);
        if (r < 0) {
            if (errno == EINTR) continue;
            if (errno == EAGAIN) { set_out(c, 1); return; }
            if (c->close_seen) { conn_done(c, 1); return; }
            fail(c, "send failed"); conn_done(c, 0); return;
        }
        size_t n = (size_t)r;
        if (c->hs_off < c->hs_len) { c->hs_off += n; continue; }
        if (!(c->out_off && c->out_seq < c->sent_seq) && c->ctl_off < c->ctl_len) {
            c->ctl_off += n;
            if (c->ctl_off == c->ctl_len) c->ctl_off = c->ctl_len = 0;
            continue;
        }
        while (n) {
            struct variant *v = &c->var[c->out_seq % (uint64_t)nvar];
            size_t rem = v->frame_len - c->out_off;
            if (n >= rem) { n -= rem; c->out_off = 0; c->out_seq++; }
            else { c->out_off += n; n = 0; }
        }
    }
}

static void queue_msgs(struct conn *c, int k)
{
    while (k-- > 0) { c->ts[c->sent_seq % (uint64_t)O.depth] = t_now; c->sent_seq++; }
}

static void queue_ctl(struct conn *c, int op, const uint8_t *p, size_t n)
{
    uint8_t mask[4]; uint64_t r = rng(); memcpy(mask, &r, 4);
    if (c->ctl_len + n + 8 > sizeof c->ctl) return;
    size_t h = ws_header(c->ctl + c->ctl_len, 1, 0, op, n, mask);
    if (n) memcpy(c->ctl + c->ctl_len + h, p, n);
    ws_mask(c->ctl + c->ctl_len + h, n, mask, 0);
    c->ctl_len += h + n;
}

static void send_close(struct conn *c)
{
    static const uint8_t code[2] = { 0x03, 0xE8 };
    if (c->close_sent) return;
    c->close_sent = 1;
    c->state = S_CLOSING;
    if (O.raw) { c->close_seen = 1; shutdown(c->fd, SHUT_WR); return; }
    queue_ctl(c, 8, code, 2);
    flush_out(c);
}

static void start_conn(struct conn *c)
{
    struct sockaddr_in a = { .sin_family = AF_INET, .sin_port = htons((uint16_t)O.port) }, l = { .sin_family = AF_INET };
    struct epoll_event ev = { .events = EPOLLOUT, .data.ptr = c };
    int one = 1;
    n_started++;
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (c->fd < 0) { perror("socket"); exit(2); }
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    inet_pton(AF_INET, O.host, &a.sin_addr);
    /* spread over loopback source addresses so that short-lived connections don't run out of ports */
    if (!strcmp(O.host, "127.0.0.1")) {
        setsockopt(c->fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &one, sizeof one);
        l.sin_addr.s_addr = htonl(0x7F000000u + 10u + (unsigned)(n_started % 200));
        if (bind(c->fd, (struct sockaddr *)&l, sizeof l) < 0) { perror("bind"); exit(2); }
    }
    c->state = S_CONNECTING;
    c->close_sent = c->close_seen = c->failed = 0;
    c->out_seq = c->sent_seq = c->recv_seq = 0; c->out_off = 0;
    c->ctl_len = c->ctl_off = 0; c->hdr_have = 0; c->in_payload = 0; c->msg_op = 0; c->msg_off = 0;
    c->resp_len = 0; c->key = (int)(rng() % NKEYS);
    c->hs = hsreq[c->key]; c->hs_len = strlen(c->hs); c->hs_off = 0;
    c->var = vars[0]; c->want_out = 1;
    c->t_start = now_ns();
    if (connect(c->fd, (struct sockaddr *)&a, sizeof a) < 0 && errno != EINPROGRESS) {
        fail(c, "connect failed"); close(c->fd); c->fd = -1; c->state = S_FREE; n_closed++; return;
    }
    epoll_ctl(ep, EPOLL_CTL_ADD, c->fd, &ev);
}

static void conn_done(struct conn *c, int clean)
{
    if (c->fd < 0) return;
    if (!clean) n_unclean++;
    close(c->fd); c->fd = -1; c->state = S_FREE;
    free(c->resp); c->resp = NULL;
#ifdef WITH_ZLIB
    if (c->inf_on) { inflateEnd(&c->inf); c->inf_on = 0; }
#endif
    if (is_connect) {
        if (clean && !c->failed) {
            n_conn_total++;
            if (t_now >= w0 && t_now < w1) n_conn++;
        }
        if (phase == 1) start_conn(c); else n_closed++;
    } else n_closed++;
}

static void opened(struct conn *c)
{
    n_open++;
    c->state = S_OPEN;
    if (is_connect) { if (t_now >= w0 && t_now < w1) lat_add(t_now - c->t_start); send_close(c); return; }
    if (is_idle) { queue_msgs(c, 1); flush_out(c); return; }
    if (!is_fanout && phase == 1) { queue_msgs(c, O.depth); flush_out(c); }
}

static void message_in(struct conn *c)
{
    if (c->msg_off != O.size) { fail(c, "message length differs"); return; }
    n_total++;
    if (is_fanout) {
        uint64_t s = c->recv_seq++;
        if (s >= C[0].sent_seq) { fail(c, "message that was never sent"); return; }
        if (t_now >= w0 && t_now < w1) { n_msgs++; if (c->id == 0) lat_add(t_now - C[0].ts[s % (uint64_t)O.depth]); }
        if (--fan_left[s % (uint64_t)O.depth] == 0) {
            fan_done++;
            if (phase == 1) { fan_left[C[0].sent_seq % (uint64_t)O.depth] = (uint64_t)O.conns; queue_msgs(&C[0], 1); flush_out(&C[0]); }
        }
        return;
    }
    if (c->recv_seq >= c->sent_seq) { fail(c, "message that was never sent"); return; }
    if (t_now >= w0 && t_now < w1) { n_msgs++; lat_add(t_now - c->ts[c->recv_seq % (uint64_t)O.depth]); }
    c->recv_seq++;
    if (phase == 1 && !is_idle) queue_msgs(c, 1);
}

static int check_bytes(struct conn *c, const uint8_t *p, size_t n)
{
    struct variant *v = &c->var[c->recv_seq % (uint64_t)nvar];
    if (c->msg_off + n > O.size) { fail(c, "message too long"); return -1; }
    if (memcmp(v->payload + c->msg_off, p, n)) { fail(c, "payload differs"); return -1; }
    c->msg_off += n;
    return 0;
}

static int data_bytes(struct conn *c, const uint8_t *p, size_t n, int end)
{
#ifdef WITH_ZLIB
    if (c->msg_rsv1) {
        static const uint8_t tail[4] = { 0, 0, 0xff, 0xff };
        for (int pass = 0; pass < (end ? 2 : 1); pass++) {
            c->inf.next_in = pass ? (Bytef *)tail : (Bytef *)p; c->inf.avail_in = pass ? 4 : (uInt)n;
            do {
                c->inf.next_out = ibuf; c->inf.avail_out = RBUF;
                int r = inflate(&c->inf, Z_SYNC_FLUSH);
                if (r != Z_OK && r != Z_BUF_ERROR && r != Z_STREAM_END) { fail(c, "inflate failed"); return -1; }
                if (check_bytes(c, ibuf, RBUF - c->inf.avail_out) < 0) return -1;
                if (r == Z_STREAM_END) { inflateReset(&c->inf); }
            } while (c->inf.avail_in || c->inf.avail_out == 0);
        }
        if (end) { n_compressed++; if (c->server_nct) inflateReset(&c->inf); }
        return 0;
    }
#endif
    (void)end;
    return check_bytes(c, p, n);
}

/* Consume bytes of an open connection; -1 when the connection is gone. */
static int feed(struct conn *c, const uint8_t *p, size_t n)
{
    while (O.raw && n) {
        size_t k = O.size - (size_t)c->msg_off < n ? O.size - (size_t)c->msg_off : n;
        if (check_bytes(c, p, k) < 0) return -1;
        p += k; n -= k;
        if (c->msg_off == O.size) { message_in(c); if (c->failed) return -1; c->msg_off = 0; }
    }
    while (n || (c->in_payload && c->left == 0)) {
        if (!c->in_payload) {
            size_t need = 2;
            while (n && c->hdr_have < need) {
                c->hdr[c->hdr_have++] = *p++; n--;
                if (c->hdr_have >= 2) { int l = c->hdr[1] & 127; need = l == 126 ? 4 : l == 127 ? 10 : 2; }
            }
            if (c->hdr_have < 2) return 0;
            { int l = c->hdr[1] & 127; need = l == 126 ? 4 : l == 127 ? 10 : 2; }
            if (c->hdr_have < need) continue;
            c->fin = c->hdr[0] >> 7; c->rsv1 = c->hdr[0] >> 6 & 1; c->op = c->hdr[0] & 15;
            if (c->hdr[0] & 0x30) { fail(c, "reserved bits"); return -1; }
            if (c->hdr[1] & 0x80) { fail(c, "masked frame from server"); return -1; }
            if (need == 2) c->left = c->hdr[1] & 127;
            else { c->left = 0; for (size_t i = 2; i < need; i++) c->left = c->left << 8 | c->hdr[i]; }
            c->hdr_have = 0; c->in_payload = 1;
            if (c->op >= 8) {
                if (!c->fin || c->left > 125 || c->rsv1) { fail(c, "bad control frame"); return -1; }
                c->ctlin_len = 0;
            } else {
                int ok_rsv = 0;
#ifdef WITH_ZLIB
                ok_rsv = c->inf_on;
#endif
                if (c->rsv1 && (!ok_rsv || c->op == 0)) { fail(c, "unexpected RSV1"); return -1; }
                if (c->op == 0 ? !c->msg_op : c->msg_op) { fail(c, "bad fragment order"); return -1; }
                if (c->op) {
                    if (c->op != (O.kind == 'b' ? 2 : 1)) { fail(c, "message type differs"); return -1; }
                    c->msg_op = c->op; c->msg_rsv1 = c->rsv1; c->msg_off = 0;
                }
            }
        }
        size_t k = c->left < n ? (size_t)c->left : n;
        int last = k == c->left;
        if (c->op >= 8) {
            memcpy(c->ctlin + c->ctlin_len, p, k); c->ctlin_len += k;
        } else if (data_bytes(c, p, k, last && c->fin) < 0) return -1;
        p += k; n -= k; c->left -= k;
        if (c->left) return 0;
        c->in_payload = 0;
        if (c->op < 8) {
            if (c->fin) { message_in(c); if (c->failed) return -1; c->msg_op = 0; c->msg_off = 0; }
        } else if (c->op == 9) { n_pings++; queue_ctl(c, 10, c->ctlin, c->ctlin_len); }
        else if (c->op == 8) {
            if (c->ctlin_len >= 2 && (c->ctlin[0] << 8 | c->ctlin[1]) != 1000) {
                char why[64]; snprintf(why, sizeof why, "close code %d", c->ctlin[0] << 8 | c->ctlin[1]); fail(c, why);
            } else if (!c->close_sent) fail(c, "server closed first");
            c->close_seen = 1; c->state = S_EOFWAIT;
            if (!c->close_sent) { c->close_sent = 1; queue_ctl(c, 8, c->ctlin, c->ctlin_len >= 2 ? 2 : 0); }
        } else if (c->op != 10) { fail(c, "unknown opcode"); return -1; }
    }
    return 0;
}

static int parse_response(struct conn *c, char *end)
{
    char *line, *save = NULL; int up = 0, co = 0, acc = 0;
    *end = 0;
    if (strncmp(c->resp, "HTTP/1.1 101", 12)) { char why[64]; snprintf(why, sizeof why, "handshake: %.40s", c->resp); fail(c, why); return -1; }
    strtok_r(c->resp, "\r\n", &save);
    while ((line = strtok_r(NULL, "\r\n", &save))) {
        char *v = strchr(line, ':');
        if (!v) continue;
        *v++ = 0; while (*v == ' ') v++;
        if (!strcasecmp(line, "upgrade")) up = !strcasecmp(v, "websocket");
        else if (!strcasecmp(line, "connection")) co = strcasestr(v, "upgrade") != NULL;
        else if (!strcasecmp(line, "sec-websocket-accept")) acc = !strcmp(v, accepts[c->key]);
        else if (!strcasecmp(line, "sec-websocket-extensions")) {
#ifdef WITH_ZLIB
            if (O.deflate && strstr(v, "permessage-deflate")) {
                char *cw = strstr(v, "client_max_window_bits="), *sw = strstr(v, "server_max_window_bits=");
                int cb = cw ? atoi(cw + 23) : 15, sb = sw ? atoi(sw + 23) : 15;
                if (cb < 9) cb = 9;
                if (cb > 15 || sb < 8 || sb > 15) { fail(c, "bad window bits"); return -1; }
                if (!vars[cb]) make_variants(&vars[cb], cb);
                c->var = vars[cb];
                memset(&c->inf, 0, sizeof c->inf);
                inflateInit2(&c->inf, -sb); c->inf_on = 1;
                c->server_nct = strstr(v, "server_no_context_takeover") != NULL;
                continue;
            }
#endif
            fail(c, "extension that was not offered"); return -1;
        }
    }
    if (!up || !co || !acc) { fail(c, "handshake headers"); return -1; }
    return 0;
}

static void on_event(struct conn *c, uint32_t evs)
{
    if (c->fd < 0) return;
    if (c->state == S_CONNECTING) {
        int err = 0; socklen_t sl = sizeof err;
        getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &err, &sl);
        if (err) { fail(c, strerror(err)); conn_done(c, 0); return; }
        c->state = S_HANDSHAKE;
        c->want_out = -1; set_out(c, 0);
        if (O.raw) { c->hs_off = c->hs_len; opened(c); return; }
        c->resp = malloc(4096);
        flush_out(c);
        return;
    }
    if (evs & EPOLLOUT) { flush_out(c); if (c->fd < 0) return; }
    if (!(evs & (EPOLLIN | EPOLLHUP | EPOLLERR))) return;
    for (int rounds = 0; rounds < 4; rounds++) {
        ssize_t r;
        if (c->state == S_HANDSHAKE) {
            r = recv(c->fd, c->resp + c->resp_len, 4095 - c->resp_len, 0);
            if (r > 0) {
                c->resp_len += (size_t)r; c->resp[c->resp_len] = 0;
                char *end = strstr(c->resp, "\r\n\r\n");
                if (!end) { if (c->resp_len >= 4095) { fail(c, "response too long"); conn_done(c, 0); return; } continue; }
                size_t used = (size_t)(end + 4 - c->resp), extra = c->resp_len - used;
                memcpy(rbuf, c->resp + used, extra);
                if (parse_response(c, end) < 0) { conn_done(c, 0); return; }
                opened(c);
                if (c->fd < 0) return;
                if (extra && feed(c, rbuf, extra) < 0) { conn_done(c, 0); return; }
                continue;
            }
        } else {
            r = recv(c->fd, rbuf, RBUF, 0);
            if (r > 0) {
                uint64_t before = c->sent_seq; size_t cl = c->ctl_len;
                if (t_now >= w0 && t_now < w1) n_wire += (uint64_t)r;
                if (feed(c, rbuf, (size_t)r) < 0) { conn_done(c, 0); return; }
                if (c->sent_seq != before || c->ctl_len != cl) flush_out(c);
                if (c->fd < 0) return;
                if (r < RBUF) return;
                continue;
            }
        }
        if (r < 0 && errno == EINTR) continue;
        if (r < 0 && errno == EAGAIN) return;
        /* end of stream or error */
        if (c->close_seen && c->close_sent) conn_done(c, 1);
        else if (c->close_sent) conn_done(c, 0);      /* end of stream without a close frame: "unclean" */
        else { fail(c, r == 0 ? "unexpected end of stream" : strerror(errno)); conn_done(c, 0); }
        return;
    }
}

static void poll_once(int ms)
{
    struct epoll_event ev[512];
    int n = epoll_wait(ep, ev, 512, ms);
    t_now = now_ns();
    for (int i = 0; i < n; i++) {
        on_event(ev[i].data.ptr, ev[i].events);
        if ((i & 7) == 7) t_now = now_ns();
    }
}

static double cpu_s(void)
{
    struct rusage ru; getrusage(RUSAGE_SELF, &ru);
    return (double)ru.ru_utime.tv_sec + (double)ru.ru_utime.tv_usec / 1e6 + (double)ru.ru_stime.tv_sec + (double)ru.ru_stime.tv_usec / 1e6;
}

int main(int argc, char **argv)
{
    int opt;
    signal(SIGPIPE, SIG_IGN);
    if (argc < 2) { fprintf(stderr, "usage: wsload echo|fanout|connect|idle -p PORT ...\n"); return 2; }
    O.mode = argv[1];
    optind = 2;
    while ((opt = getopt(argc, argv, "h:p:u:c:d:s:k:T:w:r:zR")) != -1) switch (opt) {
        case 'h': O.host = optarg; break;
        case 'p': O.port = atoi(optarg); break;
        case 'u': O.path = optarg; break;
        case 'c': O.conns = atoi(optarg); break;
        case 'd': O.depth = atoi(optarg); break;
        case 's': O.size = (size_t)atoll(optarg); break;
        case 'k': O.kind = optarg[0]; break;
        case 'T': O.secs = atof(optarg); break;
        case 'w': O.warm = atof(optarg); break;
        case 'r': O.ramp = atoi(optarg); break;
        case 'z': O.deflate = 1; break;
        case 'R': O.raw = 1; break;
        default: return 2;
    }
    if (strncmp(O.host, "127.", 4)) { fprintf(stderr, "wsload: loopback only\n"); return 2; }
    if (O.port <= 0 || O.conns < 1 || O.depth < 1 || O.conns > 50000 || O.secs > 600 || O.size > (256u << 20)) { fprintf(stderr, "wsload: bad options\n"); return 2; }
#ifndef WITH_ZLIB
    if (O.deflate) { fprintf(stderr, "wsload: built without zlib\n"); return 2; }
#endif
    is_fanout = !strcmp(O.mode, "fanout"); is_connect = !strcmp(O.mode, "connect"); is_idle = !strcmp(O.mode, "idle");
    if (is_idle) O.depth = 1;
    rng_state ^= now_ns();
    nvar = O.size > (1 << 20) ? 2 : O.size > 65536 ? 4 : MAXVAR;
    make_variants(&vars[0], 0);
    for (int i = 0; i < NKEYS; i++) {
        uint8_t raw[16]; for (int j = 0; j < 16; j++) raw[j] = (uint8_t)rng();
        b64_encode(raw, 16, keys[i]); ws_accept(keys[i], accepts[i]);
        if (asprintf(&hsreq[i], "GET %s HTTP/1.1\r\nHost: %s:%d\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                     "Sec-WebSocket-Key: %s\r\nSec-WebSocket-Version: 13\r\n%s\r\n", O.path, O.host, O.port, keys[i],
                     O.deflate ? "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n" : "") < 0) return 2;
    }
    ep = epoll_create1(EPOLL_CLOEXEC);
    C = calloc((size_t)O.conns, sizeof *C);
    for (int i = 0; i < O.conns; i++) { C[i].id = i; C[i].fd = -1; if (!is_connect) C[i].ts = calloc((size_t)O.depth, sizeof(uint64_t)); }
    t_now = now_ns();
    double t_open0 = (double)t_now / 1e9, open_s = 0, cpu0 = 0, cpu1 = 0;
    w0 = w1 = 0;

    /* opening: at most `ramp` connections in their handshake at a time */
    if (!is_connect) {
        uint64_t deadline = now_ns() + 60000000000ull;
        int next = 0;
        while (n_open < O.conns && now_ns() < deadline && n_errors == 0) {
            while (next < O.conns && next - n_open < O.ramp) start_conn(&C[next++]);
            poll_once(100);
        }
        if (n_open < O.conns) { if (!n_errors) fail(NULL, "could not open all connections"); goto out; }
        open_s = (double)now_ns() / 1e9 - t_open0;
    }
    if (is_idle) {
        struct pollfd in = { .fd = 0, .events = POLLIN };
        uint64_t deadline = now_ns() + 20000000000ull;
        while (n_total < (uint64_t)O.conns && now_ns() < deadline && !n_errors) poll_once(100);
        printf("READY %d %llu\n", n_open, (unsigned long long)n_total); fflush(stdout);
        while (poll(&in, 1, 0) == 0 && !n_errors) poll_once(50);
        t_now = now_ns();
        for (int i = 0; i < O.conns; i++) if (C[i].fd >= 0) { queue_msgs(&C[i], 1); flush_out(&C[i]); if ((i & 31) == 31) poll_once(0); }
        deadline = now_ns() + 20000000000ull;
        while (n_total < 2ull * (uint64_t)O.conns && now_ns() < deadline && !n_errors) poll_once(100);
        if (n_total < 2ull * (uint64_t)O.conns) fail(NULL, "a held connection did not echo");
        goto closing;
    }

    phase = 1;
    t_now = now_ns();
    if (is_connect) for (int i = 0; i < O.conns; i++) start_conn(&C[i]);
    else if (is_fanout) {
        fan_left = calloc((size_t)O.depth, sizeof *fan_left);
        for (int i = 0; i < O.depth; i++) fan_left[i] = (uint64_t)O.conns;
        /* let the server's handlers enter the last connections in their list */
        for (uint64_t settle = now_ns() + 300000000ull; now_ns() < settle; ) poll_once(20);
        queue_msgs(&C[0], O.depth); flush_out(&C[0]);
    } else for (int i = 0; i < O.conns; i++) { queue_msgs(&C[i], O.depth); flush_out(&C[i]); if ((i & 15) == 15) poll_once(0); }
    /* the window opens after the warm-up, counted from when every connection has been set going */
    t_now = now_ns();
    w0 = t_now + (uint64_t)(O.warm * 1e9); w1 = w0 + (uint64_t)(O.secs * 1e9);
    int told = 0;
    cpu0 = cpu_s();
    uint64_t stall_n = 0, stall_t = now_ns();
    for (;;) {
        poll_once(50);
        /* tell the watcher, who reads the server's CPU time, when the window opens */
        if (!told && t_now >= w0) { told = 1; cpu0 = cpu_s(); fprintf(stderr, "WINDOW\n"); fflush(stderr); }
        if (t_now >= w1 || n_errors > 20) break;
        uint64_t prog = n_total + n_conn_total;
        if (prog != stall_n) { stall_n = prog; stall_t = t_now; }
        else if (t_now - stall_t > 15000000000ull) { fail(NULL, "no progress for 15 s"); break; }
    }
    cpu1 = cpu_s();
    fprintf(stderr, "END\n"); fflush(stderr);
    phase = 2;
    { /* drain */
        uint64_t deadline = now_ns() + (is_connect ? 3000000000ull : 10000000000ull);
        for (;;) {
            int busy = 0;
            for (int i = 0; i < O.conns && !busy; i++) if (C[i].fd >= 0) busy = is_connect ? 1 : is_fanout ? (C[0].fd >= 0 && C[i].recv_seq < C[0].sent_seq) : C[i].recv_seq < C[i].sent_seq;
            if (!busy || now_ns() > deadline) { if (busy && !is_connect) fail(NULL, "messages missing after the end"); break; }
            poll_once(20);
        }
    }
closing:
    phase = 3;
    { uint64_t deadline = now_ns() + 5000000000ull;
      for (int i = 0; i < O.conns; i++) if (C[i].fd >= 0) { send_close(&C[i]); if ((i & 31) == 31) poll_once(0); }
      for (;;) {
          int left = 0;
          for (int i = 0; i < O.conns && !left; i++) left = C[i].fd >= 0;
          if (!left) break;
          if (now_ns() > deadline) break;
          poll_once(20);
      }
      for (int i = 0; i < O.conns; i++) if (C[i].fd >= 0) conn_done(&C[i], C[i].close_seen && 0);
    }
    if (is_idle) { cpu0 = cpu1 = 0; w0 = 0; w1 = 1; }
out:
    {
        double dt = (double)(w1 - w0) / 1e9;
        if (dt <= 0) dt = 1;
        printf("{\"mode\":\"%s\",\"conns\":%d,\"depth\":%d,\"size\":%zu,\"kind\":\"%c\",\"deflate\":%d,\"secs\":%.3f,"
               "\"open_s\":%.3f,\"msgs\":%llu,\"msgs_s\":%.1f,\"mb_s\":%.2f,\"conn_s\":%.1f,\"p50_us\":%.1f,\"p99_us\":%.1f,"
               "\"total\":%llu,\"compressed\":%llu,\"unclean\":%llu,\"pings\":%llu,\"wire\":%llu,\"client_cpu\":%.3f,\"errors\":%llu,\"first_error\":\"%s\"}\n",
               O.mode, O.conns, O.depth, O.size, O.kind, O.deflate, dt, open_s,
               (unsigned long long)n_msgs, (double)n_msgs / dt, (double)n_msgs * (double)O.size / dt / 1e6, (double)n_conn / dt,
               lat_pct(0.5), lat_pct(0.99), (unsigned long long)n_total, (unsigned long long)n_compressed, (unsigned long long)n_unclean,
               (unsigned long long)n_pings, (unsigned long long)n_wire,
               w1 > w0 + 1 ? (cpu1 - cpu0) / dt : 0.0, (unsigned long long)n_errors, first_error);
    }
    return n_errors ? 1 : 0;
}
