/* A stand-in of Windows' wsl.exe for tests: a distribution is a file in the folder "distributions" beside it. Like the older
   ones it says everything in UTF-16, and what it runs has its own bytes. */
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

int wmain(int count, wchar_t **words)
{
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
