/* A stand-in of Windows' computecore.dll for tests: machines are states without anything behind them. It writes each call
   to the file that COVE_HCS_LOG names, one a line, in UTF-8.

   Where there is a file "hyperv.port" beside it, there is a guest behind each machine, at whoever listens at that port
   (vm/supervisor/examples/hyperv-guests/guests.rs), and guests.c leads the program's sockets there. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <windows.h>
#include <computedefs.h>

#define INVALID_STATE ((HRESULT)0x80370105)
#define ALREADY_EXISTS ((HRESULT)0x8037010F)
#define ALREADY_STOPPED ((HRESULT)0x80370110)

enum state { CREATED, RUNNING, PAUSED, SAVED, ENDED };

struct system {
    enum state state;
    HCS_EVENT_CALLBACK callback;
    const void *context;
    wchar_t id[128];
    wchar_t *document;
};

struct operation {
    HRESULT result;
    const wchar_t *document;
};

int guest_begins(const wchar_t *document, void (*ended)(void *), void *context);
void guest_ends(void);
int guest_is_saved(const wchar_t *options);

static void note(const char *call, const wchar_t *id, const wchar_t *document)
{
    char path[MAX_PATH], text[8192] = "";
    if (!GetEnvironmentVariableA("COVE_HCS_LOG", path, sizeof path))
        return;
    FILE *log = fopen(path, "ab");
    if (!log)
        return;
    if (document)
        WideCharToMultiByte(CP_UTF8, 0, document, -1, text, sizeof text, NULL, NULL);
    fprintf(log, "%s\t%ls\t%s\n", call, id ? id : L"", text);
    fclose(log);
}

__declspec(dllexport) void *WINAPI HcsCreateOperation(const void *context, void *callback)
{
    (void)context, (void)callback;
    return calloc(1, sizeof(struct operation));
}

__declspec(dllexport) void WINAPI HcsCloseOperation(struct operation *operation)
{
    free(operation);
}

__declspec(dllexport) HRESULT WINAPI HcsWaitForOperationResult(struct operation *operation, DWORD timeout, wchar_t **said)
{
    (void)timeout;
    if (operation->document) {
        size_t size = (wcslen(operation->document) + 1) * sizeof(wchar_t);
        *said = LocalAlloc(0, size);
        memcpy(*said, operation->document, size);
    }
    return operation->result;
}

__declspec(dllexport) HRESULT WINAPI HcsCreateComputeSystem(const wchar_t *id, const wchar_t *document,
                                                            struct operation *operation, const void *descriptor,
                                                            struct system **system)
{
    (void)descriptor;
    note("create", id, document);
    if (!wcscmp(id, L"taken"))
        return ALREADY_EXISTS;
    *system = calloc(1, sizeof **system);
    wcsncpy((*system)->id, id, 127);
    (*system)->document = wcsdup(document);
    if (!wcscmp(id, L"forbidden")) {
        operation->result = E_ACCESSDENIED;
        operation->document = L"{\"Error\":-2147024891,\"ErrorMessage\":\"Zugriff verweigert \u2013 access denied\"}";
    }
    return S_OK;
}

__declspec(dllexport) void WINAPI HcsCloseComputeSystem(struct system *system)
{
    note("close", system->id, NULL);
    /* It stays where it is: whoever waits for its guest's end may still tell of it. */
    system->callback = NULL;
    guest_ends();
}

static HRESULT go(const char *call, struct system *system, struct operation *operation, const wchar_t *options,
                  enum state from, enum state to)
{
    note(call, system->id, options);
    operation->result = system->state == from ? S_OK : INVALID_STATE;
    if (system->state == from)
        system->state = to;
    return S_OK;
}

static void tell_end(struct system *system, const wchar_t *how)
{
    if (system->state == ENDED)
        return;
    system->state = ENDED;
    guest_ends();
    HCS_EVENT event = { HcsEventSystemExited, how, NULL };
    if (system->callback)
        system->callback(&event, (void *)system->context);
}

static void guest_has_ended(void *system)
{
    tell_end(system, L"{\"Status\":0,\"ExitType\":\"GracefulExit\"}");
}

static DWORD WINAPI crash(void *system)
{
    Sleep(100);
    tell_end(system, L"{\"Status\":-1070137082,\"ExitType\":\"UnexpectedExit\"}");
    return 0;
}

__declspec(dllexport) HRESULT WINAPI HcsStartComputeSystem(struct system *s, struct operation *o, const wchar_t *options)
{
    HRESULT done = go("start", s, o, options, CREATED, RUNNING);
    if (!guest_begins(s->document, guest_has_ended, s))
        return E_UNEXPECTED;
    /* Machines of this name give up by themselves. */
    if (wcsstr(s->id, L"crash"))
        CreateThread(NULL, 0, crash, s, 0, NULL);
    return done;
}

__declspec(dllexport) HRESULT WINAPI HcsSetComputeSystemCallback(struct system *s, int options, const void *context,
                                                                 HCS_EVENT_CALLBACK callback)
{
    (void)options;
    s->context = context;
    s->callback = callback;
    return S_OK;
}

__declspec(dllexport) HRESULT WINAPI HcsPauseComputeSystem(struct system *s, struct operation *o, const wchar_t *options)
{
    return go("pause", s, o, options, RUNNING, PAUSED);
}

__declspec(dllexport) HRESULT WINAPI HcsResumeComputeSystem(struct system *s, struct operation *o, const wchar_t *options)
{
    return go("resume", s, o, options, PAUSED, RUNNING);
}

__declspec(dllexport) HRESULT WINAPI HcsSaveComputeSystem(struct system *s, struct operation *o, const wchar_t *options)
{
    /* Without a place to save to there is nothing to save. */
    if (!options || !wcsstr(options, L"\"SaveStateFilePath\""))
        return E_INVALIDARG;
    /* Machines of this name can't be saved. */
    if (wcsstr(s->id, L"unsaved"))
        return note("save", s->id, options), E_NOTIMPL;
    return guest_is_saved(options) ? go("save", s, o, options, PAUSED, SAVED) : E_UNEXPECTED;
}

__declspec(dllexport) HRESULT WINAPI HcsTerminateComputeSystem(struct system *s, struct operation *o, const wchar_t *options)
{
    note("terminate", s->id, options);
    o->result = s->state == ENDED ? ALREADY_STOPPED : S_OK;
    if (s->state != ENDED)
        tell_end(s, L"{\"Status\":0,\"ExitType\":\"ForcedExit\"}");
    return S_OK;
}

__declspec(dllexport) HRESULT WINAPI HcsGetComputeSystemProperties(struct system *s, struct operation *o, const wchar_t *query)
{
    note("properties", s->id, query);
    o->document = L"{\"SystemType\":\"VirtualMachine\",\"RuntimeId\":\"01020304-0506-0708-090A-0B0C0D0E0F10\"}";
    return S_OK;
}

__declspec(dllexport) HRESULT WINAPI HcsModifyComputeSystem(struct system *s, struct operation *o, const wchar_t *request,
                                                            HANDLE identity)
{
    return go(identity ? "modify for somebody" : "modify", s, o, request, RUNNING, RUNNING);
}

__declspec(dllexport) HRESULT WINAPI HcsEnumerateComputeSystems(const wchar_t *query, struct operation *operation)
{
    note("enumerate", NULL, query);
    operation->document = L"[]";
    return S_OK;
}

__declspec(dllexport) HRESULT WINAPI HcsCreateEmptyRuntimeStateFile(const wchar_t *path)
{
    note("make state", NULL, path);
    HANDLE file = CreateFileW(path, GENERIC_WRITE, 0, NULL, CREATE_NEW, 0, NULL);
    if (file == INVALID_HANDLE_VALUE)
        return HRESULT_FROM_WIN32(GetLastError());
    CloseHandle(file);
    return S_OK;
}

__declspec(dllexport) HRESULT WINAPI HcsGrantVmAccess(const wchar_t *id, const wchar_t *path)
{
    note("grant", id, path);
    return S_OK;
}
