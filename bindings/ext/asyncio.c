/*
 * From the running asyncio task to its coroutine's frame, through asyncio's own accelerated functions.
 *
 * Asked only when an action begins that may outlive the frame that begins it (Eliot's, a handler's). A process that has not
 * imported asyncio pays one look into sys.modules.
 */
#include "bindings/ext/asyncio.h"

#include "bindings/ext/core.h"
#include "bindings/ext/walker.h"

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

uintptr_t pom_asyncio_task_frame(void) {
    uintptr_t found = 0;
    PyObject *loop = NULL, *task = NULL, *coroutine = NULL, *frame = NULL;
    if (!find_functions()) {
        goto done;
    }
    loop = PyObject_CallNoArgs(get_running_loop);
    if (loop == NULL || loop == Py_None) {
        goto done;
    }
    task = PyObject_CallNoArgs(current_task);
    if (task == NULL || task == Py_None) {
        goto done;
    }
    coroutine = PyObject_CallMethodNoArgs(task, s_get_coro);
    // The interpreter's own only, whose frame lies inside it: that of a look-alike may go with the frame object.
    if (coroutine == NULL || !PyCoro_CheckExact(coroutine)) {
        goto done;
    }
    frame = PyObject_GetAttr(coroutine, s_cr_frame);
    if (frame != NULL && PyFrame_Check(frame)) {
        found = pom_core_gil_mode() ? (uintptr_t)frame : pom_frame_of((uintptr_t)frame);
    }
done:
    PyErr_Clear(); // no task, or one of a kind that has no frame: the thread's first frame does
    Py_XDECREF(loop);
    Py_XDECREF(task);
    Py_XDECREF(coroutine);
    Py_XDECREF(frame);
    return found;
}
