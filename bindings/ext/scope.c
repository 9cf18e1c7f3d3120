/*
 * Reading an ASGI scope.
 *
 * Whether `path` includes `root_path` is left to the server: by the specification it does, and not
 * all did so. Here the mount point is taken off when it is there, as frameworks do, so that it
 * stands once in every name.
 *
 * The route: frameworks leave the route they matched in scope["route"] (Starlette, FastAPI), whose
 * `path` is relative to the router that matched it. Routers that are mounted move root_path in this
 * same scope, so root_path and path make the whole name once routing is over. Three exceptions:
 *   - a mount that is itself the last match (static files) has moved root_path by its own path
 *     already;
 *   - a route of a router that FastAPI includes lazily knows its path but not its prefix: the
 *     context beside it does;
 *   - who sets scope["profilomatic.route"] is believed before the framework, as with WSGI.
 *
 * Headers are looked at only in a list or a tuple: any other iterable might be used up by that.
 */
#include "bindings/ext/scope.h"

#include <stdio.h>
#include <string.h>

#include "bindings/ext/text.h"

#define NAMES(X)                                                                                   \
    X(type, "type")                                                                                \
    X(method, "method")                                                                            \
    X(path, "path")                                                                                \
    X(root_path, "root_path")                                                                      \
    X(query_string, "query_string")                                                                \
    X(headers, "headers")                                                                          \
    X(server, "server")                                                                            \
    X(client, "client")                                                                            \
    X(route, "route")                                                                              \
    X(path_format, "path_format")                                                                  \
    X(fastapi, "fastapi")                                                                          \
    X(effective, "effective_route_context")                                                        \
    X(original, "original_route")                                                                  \
    X(our_task, "profilomatic.task_uuid")                                                          \
    X(our_route, "profilomatic.route")

#define X(name, text) static PyObject *s_##name;
NAMES(X)
#undef X

int pom_scope_init(void) {
#define X(name, text)                                                                              \
    s_##name = PyUnicode_InternFromString(text);                                                   \
    if (s_##name == NULL) {                                                                        \
        return -1;                                                                                 \
    }
    NAMES(X)
#undef X
    return 0;
}

PyObject *pom_scope_get(PyObject *dict, PyObject *key) {
    pom_dict_place_t place = 0;
    return pom_dict_get(dict, key, &place);
}

void pom_scope_pick(PyObject *dict, PyObject **const *keys, pom_dict_place_t *places, size_t count,
                    PyObject **found) {
    Py_ssize_t all = PyDict_GET_SIZE(dict);
    size_t met = 0;
    for (size_t i = 0; i < count; i++) {
        found[i] = pom_dict_peek(dict, *keys[i], places[i]);
        met += found[i] != NULL;
    }
    for (size_t i = 0; i < count && met < count && (Py_ssize_t)met < all; i++) {
        if (found[i] == NULL) {
            found[i] = pom_dict_get(dict, *keys[i], &places[i]);
            met += found[i] != NULL;
        }
    }
}

pom_text_t pom_scope_text(PyObject *text) {
    Py_ssize_t size = 0;
    const char *data = text != NULL && PyUnicode_Check(text) ? pom_py_utf8(text, &size) : NULL;
    return (pom_text_t){.data = data, .size = data == NULL ? 0 : (uint32_t)size};
}

static pom_text_t bytes_of(PyObject *bytes) {
    if (bytes == NULL || !PyBytes_Check(bytes)) {
        return (pom_text_t){0};
    }
    return (pom_text_t){.data = PyBytes_AS_STRING(bytes),
                        .size = (uint32_t)PyBytes_GET_SIZE(bytes)};
}

/* A text of the scope's and what it lies in, together until the release. */
static pom_text_t hold(pom_scope_t *out, pom_text_t text, PyObject *object) {
    if (text.size > 0) {
        out->held[out->held_count++] = Py_NewRef(object);
    }
    return text;
}

static pom_text_t hold_text(pom_scope_t *out, PyObject *text) {
    return hold(out, pom_scope_text(text), text);
}

static pom_text_t hold_bytes(pom_scope_t *out, PyObject *bytes) {
    return hold(out, bytes_of(bytes), bytes);
}

static bool is(pom_text_t text, const char *ascii, size_t size) {
    return text.size == size && memcmp(text.data, ascii, size) == 0;
}

bool pom_scope_is_http(PyObject *scope) {
    static PyObject **const keys[] = {&s_type};
    static pom_dict_place_t places[1];
    PyObject *type;
    if (!PyDict_CheckExact(scope)) {
        return false;
    }
    pom_scope_pick(scope, keys, places, 1, &type);
    return is(pom_scope_text(type), "http", 4);
}

/* The items of a list or tuple; NULL with *count 0 when it is neither. */
static PyObject **items_of(PyObject *sequence, Py_ssize_t *count) {
    if (sequence == NULL || !(PyList_Check(sequence) || PyTuple_Check(sequence))) {
        *count = 0;
        return NULL;
    }
    *count = PySequence_Fast_GET_SIZE(sequence);
    return PySequence_Fast_ITEMS(sequence);
}

static void read_headers(PyObject *headers, pom_scope_t *out) {
    Py_ssize_t count, two;
    PyObject **items = items_of(headers, &count);
    PyObject *host = NULL, *task_uuid = NULL, *traceparent = NULL, *request_start = NULL;
    for (Py_ssize_t i = 0; i < count; i++) {
        PyObject **pair = items_of(items[i], &two);
        pom_text_t name = two == 2 ? bytes_of(pair[0]) : (pom_text_t){0};
        if (is(name, "host", 4)) {
            host = pair[1];
        } else if (is(name, "x-task-uuid", 11)) {
            task_uuid = pair[1];
        } else if (is(name, "traceparent", 11)) {
            traceparent = pair[1];
        } else if (is(name, "x-request-start", 15)) {
            request_start = pair[1];
        }
    }
    out->host = hold_bytes(out, host);
    out->task_uuid = hold_bytes(out, task_uuid);
    out->traceparent = hold_bytes(out, traceparent);
    out->request_start = hold_bytes(out, request_start);
}

/* scope["server"]: a name and a port, or the path of a socket and None. */
static void read_server(PyObject *server, pom_scope_t *out) {
    Py_ssize_t two;
    PyObject **pair = items_of(server, &two);
    pom_text_t name = two == 2 ? pom_scope_text(pair[0]) : (pom_text_t){0};
    if (name.size == 0 || name.size > 255) {
        return;
    }
    int overflow; // a number that is no port
    long port = PyLong_Check(pair[1]) ? PyLong_AsLongAndOverflow(pair[1], &overflow) : 0;
    int size =
        port > 0
            ? snprintf(out->server, sizeof out->server, "%.*s:%ld", (int)name.size, name.data, port)
            : snprintf(out->server, sizeof out->server, "%.*s", (int)name.size, name.data);
    out->host = (pom_text_t){.data = out->server, .size = (uint32_t)size};
}

/* The rest of a path below its mount point; all of it when it does not lie there. */
static pom_text_t below(pom_text_t root, pom_text_t path) {
    bool inside = root.size > 0 && path.size >= root.size &&
                  memcmp(path.data, root.data, root.size) == 0 &&
                  (path.size == root.size || path.data[root.size] == '/');
    return inside ? (pom_text_t){.data = path.data + root.size, .size = path.size - root.size}
                  : path;
}

void pom_scope_read(PyObject *scope, pom_scope_t *out) {
    enum { METHOD, QUERY, ROOT_PATH, PATH, HEADERS, SERVER, CLIENT, KEYS };
    static PyObject **const keys[KEYS] = {&s_method,  &s_query_string, &s_root_path, &s_path,
                                          &s_headers, &s_server,       &s_client};
    static pom_dict_place_t places[KEYS];
    PyObject *found[KEYS];
    Py_ssize_t two;
    pom_scope_pick(scope, keys, places, KEYS, found);
    memset(out, 0, offsetof(pom_scope_t, server));
    out->method = hold_text(out, found[METHOD]);
    out->query = hold_bytes(out, found[QUERY]);
    out->root_path = hold_text(out, found[ROOT_PATH]);
    out->path = below(out->root_path, hold_text(out, found[PATH]));
    read_headers(found[HEADERS], out);
    if (out->host.size == 0) {
        read_server(found[SERVER], out);
    }
    PyObject **client = items_of(found[CLIENT], &two);
    out->client = two == 2 ? hold_text(out, client[0]) : (pom_text_t){0};
}

void pom_scope_release(pom_scope_t *seen) {
    while (seen->held_count > 0) {
        Py_DECREF(seen->held[--seen->held_count]);
    }
}

PyObject *pom_scope_task(PyObject *scope) {
    return pom_scope_get(scope, s_our_task);
}

int pom_scope_set_task(PyObject *scope, PyObject *task_uuid) {
    return PyDict_SetItem(scope, s_our_task, task_uuid);
}

/* ---- the route ------------------------------------------------------------------------------ */

/* A str attribute as a new reference; NULL when there is none. */
static PyObject *text_attribute(PyObject *object, PyObject *name) {
    PyObject *value = PyObject_GetAttr(object, name);
    if (value != NULL && !PyUnicode_Check(value)) {
        Py_CLEAR(value);
    }
    PyErr_Clear(); // of no kind we know
    return value;
}

/* What knows the whole path of the route: FastAPI's context of an included router when it is about
 * this very route. A new reference. */
static PyObject *route_with_path(PyObject *scope, PyObject *route) {
    PyObject *fastapi = pom_scope_get(scope, s_fastapi);
    PyObject *context =
        fastapi == NULL || !PyDict_CheckExact(fastapi) ? NULL : pom_scope_get(fastapi, s_effective);
    if (context == NULL) {
        return Py_NewRef(route);
    }
    Py_INCREF(context);
    PyObject *original = PyObject_GetAttr(context, s_original);
    PyErr_Clear();
    bool same = original == route;
    Py_XDECREF(original);
    if (!same) {
        Py_SETREF(context, Py_NewRef(route));
    }
    return context;
}

/* A mount matches everything below its path, and its format says so. */
static bool is_mount(PyObject *route, PyObject *path) {
    PyObject *format = text_attribute(route, s_path_format);
    pom_text_t long_form = pom_scope_text(format), short_form = pom_scope_text(path);
    bool mount = long_form.size == short_form.size + 7 &&
                 memcmp(long_form.data, short_form.data, short_form.size) == 0 &&
                 memcmp(long_form.data + short_form.size, "/{path}", 7) == 0;
    Py_XDECREF(format);
    return mount;
}

static size_t put(char *out, size_t room, size_t used, pom_text_t text) {
    size_t size = text.size < room - used ? text.size : room - used;
    if (size > 0) {
        memcpy(out + used, text.data, size);
    }
    return used + size;
}

size_t pom_scope_route(PyObject *scope, char *out, size_t room) {
    pom_text_t given = pom_scope_text(pom_scope_get(scope, s_our_route));
    PyObject *matched = pom_scope_get(scope, s_route);
    if (given.size > 0) {
        size_t size = put(out, room, 0, pom_scope_text(pom_scope_get(scope, s_root_path)));
        return put(out, room, size, given);
    }
    if (matched == NULL || matched == Py_None) {
        return 0;
    }
    Py_INCREF(matched); // attributes may run code that changes the scope
    PyObject *route = route_with_path(scope, matched);
    PyObject *path = text_attribute(route, s_path);
    size_t size = 0;
    if (path != NULL) {
        bool mount = is_mount(route, path);
        size = put(out, room, 0, pom_scope_text(pom_scope_get(scope, s_root_path)));
        size = put(out, room, size,
                   mount ? (pom_text_t){.data = "/{path}", .size = 7} : pom_scope_text(path));
    }
    Py_XDECREF(path);
    Py_DECREF(route);
    Py_DECREF(matched);
    return size;
}
