/*
 * The moment in X-Request-Start, as proxies write it: "t=" or nothing, then seconds since 1970 with
 * or without a fraction (nginx, Apache by hand), or whole milliseconds (Heroku), microseconds
 * (Apache's %t) or nanoseconds. Which of them is told by the number of digits: those of one unit do
 * not become those of the next within some hundred years.
 *
 * The proxy's clock may be another machine's. What it says of the future is 0, and what it says of
 * more than an hour ago is not believed.
 */
#include "middleware/queue_time.h"

#include <stdbool.h>

#include "base/clock.h"

#define LONGEST_NS (3600 * POM_NS_PER_S)

static bool digit(char c) {
    return c >= '0' && c <= '9';
}

/* Nanoseconds in a unit of this many digits today; 0 = of no unit. */
static int64_t unit_of(size_t digits) {
    switch (digits) {
    case 10:
        return POM_NS_PER_S;
    case 13:
        return POM_NS_PER_MS;
    case 16:
        return POM_NS_PER_US;
    case 19:
        return 1;
    default:
        return 0;
    }
}

int64_t pom_request_queue_ns(const char *text, size_t size, int64_t now_wall_ns) {
    size_t at = size >= 2 && text[0] == 't' && text[1] == '=' ? 2 : 0;
    size_t begin = at;
    uint64_t number = 0;
    for (; at < size && digit(text[at]) && at - begin < 19; at++) {
        number = number * 10 + (uint64_t)(text[at] - '0');
    }
    int64_t unit_ns = unit_of(at - begin);
    if (unit_ns == 0 || number > (uint64_t)(INT64_MAX / unit_ns)) {
        return 0;
    }
    int64_t moment_ns = (int64_t)number * unit_ns;
    if (at < size && text[at] == '.') {
        at++;
        for (int64_t part_ns = unit_ns / 10; at < size && digit(text[at]); at++, part_ns /= 10) {
            moment_ns += (text[at] - '0') * part_ns;
        }
    }
    int64_t waited_ns = now_wall_ns - moment_ns;
    return at == size && waited_ns > 0 && waited_ns <= LONGEST_NS ? waited_ns : 0;
}
