/* A stand-in of Windows' wsl.exe for tests: a distribution is a file in the folder "distributions" beside it. Like the older
   ones it says everything in UTF-16, and what it runs has its own bytes.

   Where there is a file "wsl.port" beside it, it leads to whoever has distributions at that port (tests/support/src/wsl.rs),
   where what runs in them really runs. */
#include <winsock2.h>
#include <fcntl.h>
#include <io.h>
#include <stdio.h>
#include <string.h>
#include <wchar.h>
#include <windows.h>

static wchar_t folder[MAX_PATH];

static int say(int code, const wchar_t *text)
{
    fwrite(text, sizeof(wchar_t), wcslen(text), stdout);
    return code;
}

static int say_name(const wchar_t *name)
{
    say(0, name);
    return say(0, L"\r\n");
}

static const wchar_t *place(const wchar_t *name)
{
    static wchar_t path[MAX_PATH];
    _snwprintf(path, MAX_PATH, L"%ls\\%ls", folder, name);
    return path;
}

static int is_there(const wchar_t *path)
{
    return GetFileAttributesW(path) != INVALID_FILE_ATTRIBUTES;
}

static int import(const wchar_t *name, const wchar_t *archive)
{
    if (!is_there(archive))
        return say(-1, L"Das System kann die Datei nicht finden.\r\nFehlercode: Wsl/ERROR_FILE_NOT_FOUND\r\n");
    if (is_there(place(name)))
        return say(-1, L"Es gibt sie schon.\r\nFehlercode: Wsl/Service/RegisterDistro/ERROR_ALREADY_EXISTS\r\n");
    HANDLE file = CreateFileW(place(name), GENERIC_WRITE, 0, NULL, CREATE_NEW, 0, NULL);
    CloseHandle(file);
    return say(0, L"Der Vorgang wurde erfolgreich beendet. \r\n");
}

static int list(void)
{
    WIN32_FIND_DATAW found;
    int count = 0;
    HANDLE find = FindFirstFileW(place(L"*"), &found);
    if (find != INVALID_HANDLE_VALUE) {
        do {
            if (!(found.dwFileAttributes & FILE_ATTRIBUTE_DIRECTORY) && ++count)
                say_name(found.cFileName);
        } while (FindNextFileW(find, &found));
        FindClose(find);
    }
    return count ? 0 : say(-1, L"Es gibt keine.\r\nFehlercode: Wsl/WSL_E_DEFAULT_DISTRO_NOT_FOUND\r\n");
}

/* A program that says its words and its input, and ends with 3. */
static int execute(int count, wchar_t **words)
{
    char bytes[4096];
    size_t length;
    for (int at = 0; at < count; at++)
        printf("%ls|", words[at]);
    while ((length = fread(bytes, 1, sizeof bytes, stdin)) > 0)
        fwrite(bytes, 1, length, stdout);
    return 3;
}

static SOCKET there;

static int send_all(const char *bytes, int length)
{
    while (length > 0) {
        int sent = send(there, bytes, length, 0);
        if (sent <= 0)
            return 0;
        bytes += sent;
        length -= sent;
    }
    return 1;
}

static int receive_all(char *bytes, int length)
{
    while (length > 0) {
        int received = recv(there, bytes, length, 0);
        if (received <= 0)
            return 0;
        bytes += received;
        length -= received;
    }
    return 1;
}

static DWORD WINAPI carry_input(void *unused)
{
    char bytes[65536];
    DWORD length;
    (void)unused;
    while (ReadFile(GetStdHandle(STD_INPUT_HANDLE), bytes, sizeof bytes, &length, NULL) && length > 0)
        if (!send_all(bytes, length))
            break;
    shutdown(there, SD_SEND);
    return 0;
}


static int lead_to(int port, int count, wchar_t **words)
{
    WSADATA data;
    static char bytes[65536];
    struct sockaddr_in address = { .sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    WSAStartup(MAKEWORD(2, 2), &data);
    there = socket(AF_INET, SOCK_STREAM, 0);
    if (connect(there, (struct sockaddr *)&address, sizeof address))
        return say(-1, L"Nobody is there.\r\nError code: Wsl/E_UNEXPECTED\r\n");
    for (int at = 1; at < count; at++) {
        int length = WideCharToMultiByte(CP_UTF8, 0, words[at], -1, bytes, sizeof bytes, NULL, NULL);
        send_all(bytes, length);
    }
    send_all("", 1);
    CreateThread(NULL, 0, carry_input, NULL, 0, NULL);
    for (;;) {
        char head[5];
        unsigned length;
        DWORD written;
        if (!receive_all(head, sizeof head))
            return -1;
        memcpy(&length, head + 1, sizeof length);
        if (length > sizeof bytes || !receive_all(bytes, length))
            return -1;
        if (head[0] == 'X') {
            int code;
            memcpy(&code, bytes, sizeof code);
            return code;
        }
        WriteFile(GetStdHandle(head[0] == 'E' ? STD_ERROR_HANDLE : STD_OUTPUT_HANDLE), bytes, length, &written, NULL);
    }
}

/* The port that a file beside us names; 0 without one. */
static int port_beside(void)
{
    wchar_t path[MAX_PATH];
    int port = 0;
    GetModuleFileNameW(NULL, path, MAX_PATH);
    wcscpy(wcsrchr(path, L'\\'), L"\\wsl.port");
    FILE *file = _wfopen(path, L"r");
    if (file) {
        if (fscanf(file, "%d", &port) != 1)
            port = 0;
        fclose(file);
    }
    return port;
}

int wmain(int count, wchar_t **words)
{
    int port = port_beside();
    if (port) {
        int code = lead_to(port, count, words);
        /* The thread may still wait for input, which does not keep a process. */
        ExitProcess(code);
    }
    _setmode(_fileno(stdin), _O_BINARY);
    _setmode(_fileno(stdout), _O_BINARY);
    GetModuleFileNameW(NULL, folder, MAX_PATH);
    wcscpy(wcsrchr(folder, L'\\'), L"\\distributions");
    CreateDirectoryW(folder, NULL);
    if (count == 2 && !wcscmp(words[1], L"--version"))
        return say(0, L"WSL-Version: 2.3.24.0\r\nKernelversion: 5.15.153.1-2\r\n");
    if (count == 3 && !wcscmp(words[1], L"--list") && !wcscmp(words[2], L"--quiet"))
        return list();
    if (count == 7 && !wcscmp(words[1], L"--import") && !wcscmp(words[5], L"--version") && !wcscmp(words[6], L"2"))
        return import(words[2], words[4]);
    const wchar_t *missing = L"Es gibt keine Distribution mit diesem Namen.\r\n"
                             L"Fehlercode: Wsl/Service/WSL_E_DISTRO_NOT_FOUND\r\n";
    if (count == 3 && !wcscmp(words[1], L"--unregister"))
        return DeleteFileW(place(words[2])) ? say(0, L"Registrierung wird aufgehoben.\r\n") : say(-1, missing);
    if (count == 3 && !wcscmp(words[1], L"--terminate"))
        return is_there(place(words[2])) ? 0 : say(-1, missing);
    if (count > 6 && !wcscmp(words[1], L"--distribution") && !wcscmp(words[3], L"--user") && !wcscmp(words[5], L"--exec"))
        return is_there(place(words[2])) ? execute(count - 6, words + 6) : say(-1, missing);
    return say(-1, L"Ung\u00fcltiges Befehlszeilenargument.\r\nFehlercode: Wsl/E_INVALIDARG\r\n");
}
