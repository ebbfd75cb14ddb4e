/* Guests behind the stand-in of computecore.dll: whoever listens at the port that "hyperv.port" beside the library names has
   them, and sockets of Windows' family for guests, which Wine has none of, lead there by the loopback. That is done to the
   program that loaded the library, by its table of imports. */
#include <winsock2.h>
#include <ws2tcpip.h>
#include <stdio.h>
#include <windows.h>
#include <hvsocket.h>

#define FAMILY 34

static int gateway;
static SOCKET begun = INVALID_SOCKET;
static void (*when_ended)(void *);
static void *context_of_end;

static SOCKET reach(void)
{
    struct sockaddr_in to = { .sin_family = AF_INET, .sin_port = htons(gateway), .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    SOCKET there = socket(AF_INET, SOCK_STREAM, 0);
    if (connect(there, (struct sockaddr *)&to, sizeof to) == 0)
        return there;
    closesocket(there);
    return INVALID_SOCKET;
}

/* A request: a letter, a number, and for some another. Whether it is answered by a zero. */
static int ask(SOCKET there, char what, unsigned number, unsigned other)
{
    char words[9] = { what }, answer = 1;
    memcpy(words + 1, &number, 4);
    memcpy(words + 5, &other, 4);
    return send(there, words, sizeof words, 0) == sizeof words && recv(there, &answer, 1, 0) == 1 && !answer;
}

static unsigned port_of(const struct sockaddr *address)
{
    return ((const SOCKADDR_HV *)address)->ServiceId.Data1;
}

static SOCKET WSAAPI our_socket(int family, int type, int protocol, LPWSAPROTOCOL_INFOW info, GROUP group, DWORD flags)
{
    return family == FAMILY ? WSASocketW(AF_INET, type, IPPROTO_TCP, info, group, flags)
                            : WSASocketW(family, type, protocol, info, group, flags);
}

static int WSAAPI our_bind(SOCKET s, const struct sockaddr *address, int length)
{
    if (address->sa_family != FAMILY)
        return bind(s, address, length);
    struct sockaddr_in here = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    int size = sizeof here;
    if (bind(s, (struct sockaddr *)&here, sizeof here) || getsockname(s, (struct sockaddr *)&here, &size))
        return SOCKET_ERROR;
    SOCKET there = reach();
    int told = there != INVALID_SOCKET && ask(there, 'L', port_of(address), ntohs(here.sin_port));
    closesocket(there);
    return told ? 0 : SOCKET_ERROR;
}

static int WSAAPI our_connect(SOCKET s, const struct sockaddr *address, int length)
{
    if (address->sa_family != FAMILY)
        return connect(s, address, length);
    struct sockaddr_in to = { .sin_family = AF_INET, .sin_port = htons(gateway), .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    if (connect(s, (struct sockaddr *)&to, sizeof to))
        return SOCKET_ERROR;
    if (ask(s, 'C', port_of(address), 0))
        return 0;
    WSASetLastError(WSAECONNREFUSED);
    return SOCKET_ERROR;
}

static int WSAAPI our_setsockopt(SOCKET s, int level, int option, const char *value, int length)
{
    return level == HV_PROTOCOL_RAW && option == HVSOCKET_CONNECT_TIMEOUT ? 0 : setsockopt(s, level, option, value, length);
}

static void lead(const char *name, void *to)
{
    char *image = (char *)GetModuleHandleW(NULL);
    const IMAGE_NT_HEADERS *headers = (void *)(image + ((IMAGE_DOS_HEADER *)image)->e_lfanew);
    DWORD place = headers->OptionalHeader.DataDirectory[IMAGE_DIRECTORY_ENTRY_IMPORT].VirtualAddress, before;
    for (const IMAGE_IMPORT_DESCRIPTOR *library = (void *)(image + place); library->Name; library++) {
        if (_stricmp(image + library->Name, "ws2_32.dll"))
            continue;
        const IMAGE_THUNK_DATA *names = (void *)(image + library->OriginalFirstThunk);
        IMAGE_THUNK_DATA *calls = (void *)(image + library->FirstThunk);
        for (; names->u1.AddressOfData; names++, calls++) {
            /* Some are imported by their numbers. */
            if (IMAGE_SNAP_BY_ORDINAL(names->u1.Ordinal))
                continue;
            if (strcmp(((IMAGE_IMPORT_BY_NAME *)(image + names->u1.AddressOfData))->Name, name))
                continue;
            VirtualProtect(calls, sizeof *calls, PAGE_READWRITE, &before);
            calls->u1.Function = (ULONG_PTR)to;
            VirtualProtect(calls, sizeof *calls, before, &before);
        }
    }
}

static DWORD WINAPI hear(void *unused)
{
    char word;
    (void)unused;
    /* Either it ended, or nobody has it any more. */
    recv(begun, &word, 1, 0);
    when_ended(context_of_end);
    return 0;
}

/* A request with a document; whether it is answered by a zero. */
static int hand_over(SOCKET there, char what, const wchar_t *document)
{
    static char text[32768];
    int length = WideCharToMultiByte(CP_UTF8, 0, document, -1, text, sizeof text, NULL, NULL) - 1;
    if (there == INVALID_SOCKET || length <= 0)
        return 0;
    char words[9] = { what }, answer = 1;
    memcpy(words + 1, &length, 4);
    send(there, words, sizeof words, 0);
    send(there, text, length, 0);
    return recv(there, &answer, 1, 0) == 1 && !answer;
}

/* Has the guest's state written to the file that the options name, where there is one; whether that went well. */
int guest_is_saved(const wchar_t *options)
{
    if (!gateway)
        return 1;
    SOCKET there = reach();
    int is_saved = hand_over(there, 'P', options);
    closesocket(there);
    return is_saved;
}

/* Has a guest begin, where there are any; whether that went well. */
int guest_begins(const wchar_t *document, void (*ended)(void *), void *context)
{
    if (!gateway)
        return 1;
    begun = reach();
    if (!hand_over(begun, 'S', document))
        return 0;
    /* The thread runs our code for as long as the program lives. */
    HMODULE pinned;
    GetModuleHandleExW(GET_MODULE_HANDLE_EX_FLAG_PIN | GET_MODULE_HANDLE_EX_FLAG_FROM_ADDRESS, (LPCWSTR)(void *)hear, &pinned);
    when_ended = ended;
    context_of_end = context;
    CreateThread(NULL, 0, hear, NULL, 0, NULL);
    return 1;
}

/* Ends it, if there is one. */
void guest_ends(void)
{
    if (begun != INVALID_SOCKET)
        shutdown(begun, SD_BOTH);
}

BOOL WINAPI DllMain(HINSTANCE library, DWORD reason, void *unused)
{
    wchar_t path[MAX_PATH];
    WSADATA data;
    (void)unused;
    if (reason != DLL_PROCESS_ATTACH)
        return TRUE;
    GetModuleFileNameW(library, path, MAX_PATH);
    wcscpy(wcsrchr(path, L'\\'), L"\\hyperv.port");
    FILE *file = _wfopen(path, L"r");
    if (!file)
        return TRUE;
    if (fscanf(file, "%d", &gateway) != 1)
        gateway = 0;
    fclose(file);
    WSAStartup(MAKEWORD(2, 2), &data);
    lead("WSASocketW", our_socket);
    lead("bind", our_bind);
    lead("connect", our_connect);
    lead("setsockopt", our_setsockopt);
    return TRUE;
}
