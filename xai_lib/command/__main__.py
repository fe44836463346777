from xai_lib.command import main

if __name__ == "__main__":
    main()
