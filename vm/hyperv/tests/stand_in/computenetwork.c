/* A stand-in of Windows' computenetwork.dll for tests: there are Hyper-V's own switch, unless there is a file beside
   the log that is called as it with ".no-switch" behind, and those that were made. Each call is written to the log, which
   COVE_HCS_LOG names, one a line. The forms of calls are those of
   MinGW's header. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <windows.h>
#include <computenetwork.h>

#define NETWORK_NOT_FOUND ((HRESULT)0x803B0001)
#define ENDPOINT_NOT_FOUND ((HRESULT)0x803B0002)

static const GUID default_switch = { 0xc08cb7b8, 0x9b3c, 0x408e, { 0x8e, 0x30, 0x5e, 0x16, 0xa3, 0xae, 0xb4, 0x44 } };
static GUID own_switch, endpoint;
static int has_own_switch, has_endpoint;

static void note(const char *call, const wchar_t *document)
{
    char path[MAX_PATH], text[4096] = "";
    if (!GetEnvironmentVariableA("COVE_HCS_LOG", path, sizeof path))
        return;
    FILE *log = fopen(path, "ab");
    if (!log)
        return;
    if (document)
        WideCharToMultiByte(CP_UTF8, 0, document, -1, text, sizeof text, NULL, NULL);
    fprintf(log, "%s\t\t%s\n", call, text);
    fclose(log);
}

static HRESULT give(wchar_t **to, const wchar_t *text)
{
    size_t size = (wcslen(text) + 1) * sizeof(wchar_t);
    *to = CoTaskMemAlloc(size);
    memcpy(*to, text, size);
    return S_OK;
}

static HRESULT refuse(HRESULT code, wchar_t **said)
{
    give(said, L"{\"Success\":false,\"Error\":\"Element not found. \"}");
    return code;
}

__declspec(dllexport) HRESULT WINAPI HcnOpenNetwork(REFGUID id, PHCN_NETWORK network, PWSTR *said)
{
    char path[MAX_PATH] = "";
    DWORD length = GetEnvironmentVariableA("COVE_HCS_LOG", path, sizeof path - 16);
    strcpy(path + length, ".no-switch");
    int has_default = GetFileAttributesA(path) == INVALID_FILE_ATTRIBUTES;
    if (!(IsEqualGUID(id, &default_switch) && has_default) && !(has_own_switch && IsEqualGUID(id, &own_switch)))
        return refuse(NETWORK_NOT_FOUND, said);
    *network = calloc(1, 1);
    return S_OK;
}

__declspec(dllexport) HRESULT WINAPI HcnCreateNetwork(REFGUID id, PCWSTR settings, PHCN_NETWORK network, PWSTR *said)
{
    (void)said;
    note("create network", settings);
    own_switch = *id;
    has_own_switch = 1;
    *network = calloc(1, 1);
    return S_OK;
}

__declspec(dllexport) HRESULT WINAPI HcnCloseNetwork(HCN_NETWORK network)
{
    free(network);
    return S_OK;
}

__declspec(dllexport) HRESULT WINAPI HcnCreateEndpoint(HCN_NETWORK network, REFGUID id, PCWSTR settings, PHCN_ENDPOINT made,
                                                       PWSTR *said)
{
    (void)network;
    note("create endpoint", settings);
    if (has_endpoint)
        return refuse(E_INVALIDARG, said);
    endpoint = *id;
    has_endpoint = 1;
    *made = calloc(1, 1);
    return S_OK;
}

__declspec(dllexport) HRESULT WINAPI HcnQueryEndpointProperties(HCN_ENDPOINT of, PCWSTR query, PWSTR *properties,
                                                                PWSTR *said)
{
    (void)of, (void)query, (void)said;
    return give(properties, L"{\"ID\":\"x\",\"MacAddress\":\"00-15-5D-01-02-03\"}");
}

__declspec(dllexport) HRESULT WINAPI HcnDeleteEndpoint(REFGUID id, PWSTR *said)
{
    if (!has_endpoint || !IsEqualGUID(id, &endpoint))
        return refuse(ENDPOINT_NOT_FOUND, said);
    note("delete endpoint", NULL);
    has_endpoint = 0;
    return S_OK;
}

__declspec(dllexport) HRESULT WINAPI HcnCloseEndpoint(HCN_ENDPOINT of)
{
    free(of);
    return S_OK;
}
