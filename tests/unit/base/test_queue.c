/* The queue: order, the empty hint, and many producers against one consumer. */
#include "tests/unit/support/test_support.h"

#include "base/alloc.h"
#include "base/queue.h"

#include <pthread.h>
#include <sched.h>

typedef struct item_s {
    int producer;
    int number;
    pom_link_t link; /* Not first, so that POM_CONTAINER has something to do. */
} item_t;

static item_t *item_of(pom_link_t *link) {
    return POM_CONTAINER(link, item_t, link);
}

static void test_queue_empty_gives_nothing(void **state) {
    pom_queue_t queue;
    pom_queue_init(&queue);
    assert_true(pom_queue_is_empty(&queue));
    assert_null(pom_queue_take_all(&queue));
    assert_null(pom_queue_take_all_unordered(&queue));
}

static void test_queue_take_all_is_oldest_first(void **state) {
    for (int count = 1; count <= 5; count++) {
        pom_queue_t queue;
        item_t items[5];
        pom_queue_init(&queue);
        for (int i = 0; i < count; i++) {
            items[i].number = i;
            pom_queue_push(&queue, &items[i].link);
        }
        int seen = 0;
        for (pom_link_t *link = pom_queue_take_all(&queue); link != NULL; link = link->next) {
            assert_ptr_equal(item_of(link), &items[seen]);
            assert_int_equal(item_of(link)->number, seen);
            seen++;
        }
        assert_int_equal(seen, count);
        assert_true(pom_queue_is_empty(&queue));
    }
}

static void test_queue_take_all_unordered_gives_everything(void **state) {
    pom_queue_t queue;
    item_t items[3];
    pom_queue_init(&queue);
    int sum = 0;
    for (int i = 0; i < 3; i++) {
        items[i].number = 1 << i;
        pom_queue_push(&queue, &items[i].link);
    }
    for (pom_link_t *l = pom_queue_take_all_unordered(&queue); l != NULL; l = l->next) {
        sum += item_of(l)->number;
    }
    assert_int_equal(sum, 7);
    assert_true(pom_queue_is_empty(&queue));
}

static void test_queue_push_tells_the_first_of_a_burst(void **state) {
    pom_queue_t queue;
    item_t items[4];
    pom_queue_init(&queue);
    assert_true(pom_queue_push(&queue, &items[0].link));
    assert_false(pom_queue_is_empty(&queue));
    assert_false(pom_queue_push(&queue, &items[1].link));
    assert_false(pom_queue_push(&queue, &items[2].link));
    assert_non_null(pom_queue_take_all(&queue));
    assert_true(pom_queue_push(&queue, &items[3].link));
    assert_non_null(pom_queue_take_all(&queue));
}

// From here on with threads.

enum { PRODUCERS = 4, EACH = 20000 };

static pom_queue_t shared;
static _Atomic(int) producers_done;
static _Atomic(int) firsts; /* pushes that found the queue empty */

typedef struct producer_s {
    int id;
    item_t *items;
} producer_t;

static void *produce(void *arg) {
    producer_t *self = arg;
    for (int i = 0; i < EACH; i++) {
        self->items[i].producer = self->id; /* Plain writes: the push must publish them. */
        self->items[i].number = i;
        if (pom_queue_push(&shared, &self->items[i].link)) {
            atomic_fetch_add_explicit(&firsts, 1, memory_order_relaxed);
        }
        if (i % 64 == 0) {
            sched_yield();
        }
    }
    atomic_fetch_add(&producers_done, 1);
    return NULL;
}

static void test_queue_keeps_each_producers_order(void **state) {
    pom_queue_init(&shared);
    atomic_store(&producers_done, 0);
    atomic_store(&firsts, 0);
    producer_t producers[PRODUCERS];
    pthread_t threads[PRODUCERS];
    for (int i = 0; i < PRODUCERS; i++) {
        producers[i].id = i;
        producers[i].items = pom_calloc(EACH, sizeof(item_t));
        assert_non_null(producers[i].items);
    }
    for (int i = 0; i < PRODUCERS; i++) {
        assert_int_equal(pthread_create(&threads[i], NULL, produce, &producers[i]), 0);
    }

    int next[PRODUCERS] = {0};
    int takes = 0;
    int disorder = 0;
    bool last_turn = false;
    while (!last_turn) {
        /* Read before the take: what the last producer pushed is then taken in this very turn. */
        last_turn = atomic_load(&producers_done) == PRODUCERS;
        pom_link_t *link = pom_queue_take_all(&shared);
        takes += link != NULL;
        if (link == NULL) {
            sched_yield();
        }
        while (link != NULL) {
            pom_link_t *after = link->next;
            item_t *item = item_of(link);
            disorder += item->number != next[item->producer];
            next[item->producer] = item->number + 1;
            link->next = NULL; /* The consumer owns it now. */
            link = after;
        }
    }
    for (int i = 0; i < PRODUCERS; i++) {
        assert_int_equal(pthread_join(threads[i], NULL), 0);
        assert_int_equal(next[i], EACH);
        pom_free(producers[i].items);
    }
    assert_int_equal(disorder, 0);
    assert_null(pom_queue_take_all(&shared));
    /* Each list that was taken began with exactly one push that found the queue empty. */
    assert_int_equal(atomic_load(&firsts), takes);
}

/* Two threads hand few items to and fro: every address is pushed again and again, which is where a
 * stack popped one by one would meet ABA. */

enum { BALLS = 3, HANDS = 20000 };

typedef struct player_s {
    pom_queue_t *in;
    pom_queue_t *out;
    bool unordered;
    int64_t hits;
} player_t;

static _Atomic(int) rallies;

static void *play(void *arg) {
    player_t *self = arg;
    while (atomic_load_explicit(&rallies, memory_order_relaxed) < HANDS) {
        pom_link_t *link =
            self->unordered ? pom_queue_take_all_unordered(self->in) : pom_queue_take_all(self->in);
        if (link == NULL) {
            sched_yield();
        }
        while (link != NULL) {
            pom_link_t *after = link->next;
            item_of(link)->number++; /* Plain: owned between take and push. */
            self->hits++;
            atomic_fetch_add_explicit(&rallies, 1, memory_order_relaxed);
            pom_queue_push(self->out, link);
            link = after;
        }
    }
    return NULL;
}

static void test_queue_items_may_be_pushed_again_at_once(void **state) {
    pom_queue_t to_left;
    pom_queue_t to_right;
    item_t balls[BALLS] = {{0}};
    pom_queue_init(&to_left);
    pom_queue_init(&to_right);
    atomic_store(&rallies, 0);
    for (int i = 0; i < BALLS; i++) {
        pom_queue_push(&to_left, &balls[i].link);
    }
    player_t left = {.in = &to_left, .out = &to_right, .unordered = false};
    player_t right = {.in = &to_right, .out = &to_left, .unordered = true};
    pthread_t threads[2];
    assert_int_equal(pthread_create(&threads[0], NULL, play, &left), 0);
    assert_int_equal(pthread_create(&threads[1], NULL, play, &right), 0);
    assert_int_equal(pthread_join(threads[0], NULL), 0);
    assert_int_equal(pthread_join(threads[1], NULL), 0);

    int64_t counted = 0;
    for (int i = 0; i < BALLS; i++) {
        counted += balls[i].number;
    }
    assert_int_equal(counted, left.hits + right.hits);
    int left_over = 0;
    for (pom_link_t *l = pom_queue_take_all(&to_left); l != NULL; l = l->next) {
        left_over++;
    }
    for (pom_link_t *l = pom_queue_take_all(&to_right); l != NULL; l = l->next) {
        left_over++;
    }
    assert_int_equal(left_over, BALLS);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        POM_TEST(test_queue_empty_gives_nothing),
        POM_TEST(test_queue_take_all_is_oldest_first),
        POM_TEST(test_queue_take_all_unordered_gives_everything),
        POM_TEST(test_queue_push_tells_the_first_of_a_burst),
        POM_TEST(test_queue_keeps_each_producers_order),
        POM_TEST(test_queue_items_may_be_pushed_again_at_once),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
