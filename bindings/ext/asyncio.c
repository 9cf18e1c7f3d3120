/*
 * From the running asyncio task to its coroutine's frame, through asyncio's own accelerated
 * functions.
 *
 * Asked only when an action begins that may outlive the frame that begins it (Eliot's, a
 * handler's), and where a coroutine lies between some code and the action around it. A process that
 * has not imported asyncio pays one look into sys.modules.
 */
#include "bindings/ext/layout.h"

#include "bindings/ext/asyncio.h"

#include "bindings/ext/core.h"

static PyObject *s_asyncio, *s_get_coro, *s_cr_frame;
static PyObject *get_running_loop, *current_task; // of _asyncio, once it is there

int pom_asyncio_init(void) {
    s_asyncio = PyUnicode_InternFromString("_asyncio");
    s_get_coro = PyUnicode_InternFromString("get_coro");
    s_cr_frame = PyUnicode_InternFromString("cr_frame");
    return s_asyncio == NULL || s_get_coro == NULL || s_cr_frame == NULL ? -1 : 0;
}

static bool find_functions(void) {
    if (current_task != NULL) {
        return true;
    }
    PyObject *module = PyImport_GetModule(s_asyncio); // new reference; NULL = not imported
    if (module == NULL) {
        return false;
    }
    Py_XSETREF(get_running_loop, PyObject_GetAttrString(module, "_get_running_loop"));
    if (get_running_loop != NULL) {
        PyObject *asyncio = PyImport_ImportModule("asyncio");
        current_task = asyncio == NULL ? NULL : PyObject_GetAttrString(asyncio, "current_task");
        Py_XDECREF(asyncio);
    }
    Py_DECREF(module);
    return current_task != NULL;
}

/* Of a running coroutine its frame, in the identity of the engine in force. */
static uintptr_t frame_of(PyObject *coroutine) {
    // The interpreter's own only, whose frame lies inside it: that of a look-alike may go with the
    // frame object.
    if (!PyCoro_CheckExact(coroutine)) {
        return 0;
    }
    if (!pom_core_gil_mode()) {
        return pom_layout_is_executing((const unsigned char *)coroutine)
                   ? (uintptr_t)coroutine + POM_FRAME_INSIDE
                   : 0;
    }
    PyObject *frame = PyObject_GetAttr(coroutine, s_cr_frame); // the coroutine keeps it
    uintptr_t found = frame != NULL && PyFrame_Check(frame) ? (uintptr_t)frame : 0;
    Py_XDECREF(frame);
    return found;
}

uintptr_t pom_asyncio_task_frame(void) {
    uintptr_t found = 0;
    PyObject *loop = NULL, *task = NULL, *coroutine = NULL;
    if (!find_functions()) {
        goto done;
    }
    loop = PyObject_CallNoArgs(get_running_loop);
    if (loop == NULL || loop == Py_None) {
        goto done;
    }
    task = PyObject_CallOneArg(current_task, loop);
    if (task == NULL || task == Py_None) {
        goto done;
    }
    coroutine = PyObject_CallMethodNoArgs(task, s_get_coro);
    if (coroutine != NULL) {
        found = frame_of(coroutine);
    }
done:
    PyErr_Clear(); // no task, or one of a kind that has no frame: the thread's first frame does
    Py_XDECREF(loop);
    Py_XDECREF(task);
    Py_XDECREF(coroutine);
    return found;
}
